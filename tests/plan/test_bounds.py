"""Bounds against the same lines in plain Python."""

import dataclasses

import pytest

from dino_jax.plan.bounds import Work, compute_bounds
from dino_jax.plan.cost import Collective, Cost
from dino_jax.plan.topology import CHIPS, Slice

PLACE = Slice("v5e:4x4", CHIPS["v5e"], (4, 4), (None,) * 16, 4)
WORK = Work(model_flops=113.8e9, batch_size=1024, steps_per_epoch=1251, total_steps=125_100)
COST = Cost(
    flops=9e12,
    bytes=8.19e10,
    cycles=3e8,
    collectives={"all-reduce": Collective(1, 2e9, 3.75e9), "all-gather": Collective(1, 1e9, 1e9)},
)


def test_the_slowest_of_compute_memory_and_links_bounds_the_step():
    bounds = compute_bounds(COST, WORK, PLACE)
    assert bounds.compute == pytest.approx(9e12 / 197e12)
    assert bounds.memory == pytest.approx(8.19e10 / 819e9) == pytest.approx(0.1)
    assert bounds.network == pytest.approx(4.75e9 / (4 * 50e9))  # four links of 50 GB/s
    assert (bounds.step, bounds.limit) == (bounds.memory, "memory")
    busy = compute_bounds(dataclasses.replace(COST, flops=9e13), WORK, PLACE)
    assert (busy.limit, busy.step) == ("compute", pytest.approx(9e13 / 197e12))


def test_the_run_follows_from_the_step():
    bounds = compute_bounds(COST, WORK, PLACE)  # 0.1 s
    assert bounds.images_per_second == pytest.approx(10_240)
    assert bounds.images_per_second_per_host == pytest.approx(2_560)
    assert bounds.epochs_per_day == pytest.approx(24 * 3600 / (0.1 * 1251))
    assert bounds.chip_hours == pytest.approx(125_100 * 0.1 / 3600 * 16)
    assert bounds.mfu == pytest.approx(113.8e9 * 64 / 197e12 / 0.1)


@pytest.mark.parametrize(
    ("chip", "shape", "links"),
    [
        *(("v5e", (2, 2), 2), ("v5e", (2, 4), 3), ("v5e", (16, 16), 4)),
        *(("v5p", (4, 4, 4), 6), ("v5p", (2, 2, 1), 2), ("v6e", (1, 1), 0)),
    ],
)
def test_a_chip_has_two_neighbours_on_an_axis_and_one_on_an_axis_of_two(chip, shape, links):
    tpu_slice = Slice("x", CHIPS[chip], shape, (None,), 1)
    assert tpu_slice.ici_bandwidth == links * CHIPS[chip].link


def test_one_chip_that_sends_nothing_has_no_bound_of_the_network():
    alone = Slice("v5e:1x1", CHIPS["v5e"], (1, 1), (None,), 1)
    assert compute_bounds(Cost(flops=1e12, bytes=1e9), WORK, alone).network == 0


@pytest.mark.parametrize(("chip", "mxus"), [("v4", 8), ("v5e", 4), ("v5p", 8)])
def test_a_known_clock_is_that_of_the_peak(chip, mxus):
    # Each MXU does 128 x 128 multiplications and additions per cycle.
    assert CHIPS[chip].peak == pytest.approx(mxus * 128**2 * 2 * CHIPS[chip].clock, rel=2e-3)
