"""The search for the largest batch and the advice, with a compiler that only does sums."""

import pytest

from configs import resnet50_released, vitl16_short, vits16_vanilla
from dino_jax.plan.advice import (
    batch_unit,
    find_largest_batch,
    find_remedy,
    grid_step,
    remedies,
    wide_degree,
)
from dino_jax.plan.program import Program
from dino_jax.plan.topology import CHIPS, Slice

PLACE = Slice("v5e:4x4", CHIPS["v5e"], (4, 4), (None,) * 16, 4)


class Compiler:
    """Needs `fixed` bytes, `slope` per image and something that is no line; counts its calls."""

    def __init__(self, limit, fixed, slope, bend=0.0):
        self.limit, self.fixed, self.slope, self.bend = limit, fixed, slope, bend
        self.calls = 0

    def __call__(self, batch):
        self.calls += 1
        memory = self.fixed + self.slope * batch + self.bend * batch**1.5
        return Program(memory <= self.limit, memory, self.fixed / 2, None, 0.0)


@pytest.mark.parametrize("first", [1, 8, 64, 300, 5000])
@pytest.mark.parametrize("unit", [1, 8, 12])
@pytest.mark.parametrize("slope", [0.4, 3.3, 70.0])
@pytest.mark.parametrize("bend", [0.0, 0.2, -0.001])
def test_the_search_ends_between_what_fits_and_what_does_not(first, unit, slope, bend):
    compiler = Compiler(1000.0, 130.0, slope, bend)
    start = first * unit
    found = find_largest_batch(compiler, (start, compiler(start)), 1000.0, unit, 20_000)
    assert found.fails is not None
    assert found.fits == 0 or compiler(found.fits).fits
    assert not compiler(found.fails).fits
    assert found.fits % unit == found.fails % unit == 0
    assert found.fails - found.fits <= max(unit, found.fails / 8)


def test_a_straight_line_takes_few_compilations():
    compiler = Compiler(1000.0, 130.0, 4.1)
    find_largest_batch(compiler, (16, compiler(16)), 1000.0, 1, 20_000)
    assert compiler.calls <= 5


def test_nothing_fits_where_the_state_is_too_large():
    compiler = Compiler(1000.0, 1100.0, 4.0)
    found = find_largest_batch(compiler, (32, compiler(32)), 1000.0, 4, 20_000)
    assert found == (0, 4)


def test_no_batch_is_larger_than_the_data_set():
    compiler = Compiler(1e9, 130.0, 4.0)
    found = find_largest_batch(compiler, (16, compiler(16)), 1e9, 1, 80)
    assert found == (80, None)


@pytest.mark.parametrize(("batch", "step"), [(1, 1), (15, 1), (16, 2), (100, 8), (1000, 64)])
def test_batches_are_tried_in_steps_of_an_eighth_to_a_sixteenth(batch, step):
    assert grid_step(batch, 1) == step


def test_batches_are_whole_groups_of_images_on_every_host():
    plain = vits16_vanilla.get_config()
    assert batch_unit(plain, PLACE) == 1
    plain.accumulate_steps = 3
    assert batch_unit(plain, PLACE) == 3
    grouped = vitl16_short.get_config()  # groups of 64 images, hosts of 4 chips
    assert batch_unit(grouped, PLACE) == 16
    grouped.accumulate_steps = 3
    assert batch_unit(grouped, PLACE) % 3 == batch_unit(grouped, PLACE) * 4 % (3 * 64) == 0


def program(state):
    return Program(False, 3 * state, state, None, 0.0)


def test_remat_is_tried_before_the_state_is_split():
    config = vits16_vanilla.get_config()
    tried = list(remedies(config, program(8 * 2**30), PLACE))
    names, full = ({"network.backbone.remat": level} for level in ("names", "full"))
    split = {"runtime.fsdp": 4}  # 8 GiB / 4 is less than a quarter of 15.75 GiB
    assert tried == [names, full, split, split | names, split | full]
    config.network.backbone.remat = "full"
    assert list(remedies(config, program(8 * 2**30), PLACE)) == [split]


def test_a_small_state_is_not_split():
    tried = remedies(vits16_vanilla.get_config(), program(2**30), PLACE)
    assert all("runtime.fsdp" not in changes for changes in tried)


def test_a_state_larger_than_the_memory_must_be_split():
    tried = list(remedies(vits16_vanilla.get_config(), program(40 * 2**30), PLACE))
    assert [changes["runtime.fsdp"] for changes in tried] == [16] * 3


def test_a_resnet_has_no_remat():
    assert list(remedies(resnet50_released.get_config(), program(2**30), PLACE)) == []


def test_the_widest_split_is_all_devices():
    assert wide_degree(vits16_vanilla.get_config(), program(2**40), PLACE) == 16


def test_the_first_remedy_that_fits_is_the_advice():
    def compile_changed(changes):
        return Program("full" in changes.values(), 1.0, 1.0, None, 0.0)

    config = vits16_vanilla.get_config()
    changes, changed = find_remedy(config, program(2**30), PLACE, compile_changed)
    assert changes == {"network.backbone.remat": "full"} and changed.fits
    assert find_remedy(config, program(2**30), PLACE, lambda _: program(1)) is None
