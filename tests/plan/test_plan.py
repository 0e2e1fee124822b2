"""What is asked of the compiler, and how the answers are shown; the compiler is played."""

import io
import json

import pytest
from rich.console import Console

from configs import vits16_vanilla
from dino_jax.devices.sharding import make_mesh
from dino_jax.plan import plan as planning
from dino_jax.plan.cost import Collective, Cost
from dino_jax.plan.plan import make_plan
from dino_jax.plan.program import Program
from dino_jax.plan.supply import MEASURED, Supply, known_supply
from dino_jax.plan.table import plan_values, print_plans
from dino_jax.plan.topology import CHIPS, GIB, Slice
from dino_jax.run.whole_config import read_config

PLACE = Slice("v5e:4x4", CHIPS["v5e"], (4, 4), (None,) * 16, 4)
COST = Cost(
    flops=3.65e12,  # 32 images
    bytes=4.095e10,
    cycles=3e8,
    collectives={"all-reduce": Collective(50, 1.66e8, 3.1e8)},
)
IMAGES = 1_281_167


@pytest.fixture
def plan(monkeypatch):
    """Plans vits16_vanilla; an image takes so many GiB, "names" half and "full" a quarter of it."""

    def run(per_image, search=True, state=0.7, cost=COST):
        tried, said = [], []

        def compile_step(config, images, tpu_slice):
            remat, batch = config.network.backbone.remat, config.batch_size // 16
            share = {"none": 1.0, "names": 0.5, "full": 0.25}[remat]
            held = state / config.runtime.fsdp
            memory = (held + share * per_image * batch) * GIB
            tried.append((batch, remat, config.runtime.fsdp))
            fits = memory <= tpu_slice.chip.hbm
            return Program(fits, memory, held * GIB, cost if fits else None, 60.0)

        monkeypatch.setattr(planning, "compile_step", compile_step)
        # A mesh needs devices; those of the slice are not there.
        monkeypatch.setattr(planning, "make_mesh", lambda fsdp, devices: make_mesh(fsdp))
        found = make_plan(
            read_config(vits16_vanilla.get_config()), IMAGES, PLACE, search, said.append
        )
        assert len(said) == len(tried)
        return found, tried

    return run


def show(found, supply):
    stream = io.StringIO()
    print_plans([found], supply, Console(file=stream, width=100))
    return " ".join(stream.getvalue().split())


SUPPLY = known_supply(vits16_vanilla.get_config().augment)


def test_what_fits_is_compiled_once_without_a_search(plan):
    found, tried = plan(0.1, search=False)
    assert tried == [(32, "none", 1)]
    text = show(found, SUPPLY)
    for words in (
        "images per step, per device 512, 32",
        "needed 3.90 GiB left 11.85 GiB fits yes",
        "FLOP 3.65 TFLOP HBM traffic 41 GB all-reduce 50 x, 166 MB all-gather none",
        "HBM 50 ms links 1.55 ms step (largest) 50 ms the compiler's count, not a bound",
        "XLA's operations 200 ms kernels 0 ms step (both) 200 ms",
        "images/s 10,240",
        "input: images/s per host 2,560",
        "lower bounds by the TPU compiler and the data sheets, not measurements",
        f"a host reads 2,560 images/s: {2560 / MEASURED['host']:.0f} cores like",
        "doctor --config=… --need=10240",
    ):
        assert words in text


def test_the_largest_batch_is_between_two_that_were_compiled(plan):
    found, tried = plan(0.1)
    assert found.largest.fits in {batch for batch, _, _ in tried}
    assert found.largest.fits <= (15.75 - 0.7) / 0.1 < found.largest.fails
    text = show(found, SUPPLY)
    assert f"{found.largest.fits} images per device fit, {found.largest.fails} do not fit" in text
    assert f"--config.batch_size={16 * found.largest.fits}" in text


def test_what_does_not_fit_gets_the_first_remedy_that_helps(plan):
    found, tried = plan(0.8, search=False)
    assert tried == [(32, "none", 1), (32, "names", 1)]
    text = show(found, SUPPLY)
    assert "fits NO" in text and "does not fit: 10.55 GiB per device too much" in text
    assert "fits with --config.network.backbone.remat=names: 13.50 GiB" in text
    assert found.bounds is not None


def test_a_large_state_is_split(plan):
    found, tried = plan(0.05, search=False, state=20.0)
    assert tried == [(32, "none", 1), (32, "none", 8)]
    assert "--config.runtime.fsdp=8" in show(found, SUPPLY)


def test_where_nothing_helps_there_are_no_bounds(plan):
    found, _ = plan(4.0, search=False)
    text = show(found, SUPPLY)
    assert "remat and fsdp do not help: lower the batch" in text
    assert found.bounds is None and "images/s -" in text


def test_a_program_that_cannot_be_printed_has_its_memory_only(plan):
    found, _ = plan(0.1, search=False, cost=None)
    text = show(found, SUPPLY)
    assert "libtpu cannot print this program" in text and "needed 3.90 GiB" in text


def test_the_values_for_programs_are_plain_and_labelled(plan):
    found, _ = plan(0.8)
    values = json.loads(json.dumps(plan_values(found, SUPPLY)))
    assert values["topology"] == "v5e:4x4" and values["batch_size"] == 512
    assert values["memory_bytes"] == pytest.approx((0.7 + 0.8 * 32) * GIB)
    assert values["remedy"] == {"network.backbone.remat": "names"}
    assert values["program"]["collectives"]["all-reduce"]["count"] == 50
    assert values["bounds"]["step"] == pytest.approx(4.095e10 / 819e9)
    assert "not measurements" in values["bounds_are"]
    assert values["compilers_count"]["cycles"] == {"xla": 3e8, "kernels": 0, "step": 3e8}
    assert values["compilers_count"]["seconds"]["step"] == pytest.approx(0.2)


def test_the_input_was_measured_for_the_crops_of_the_paper_only(plan):
    config = vits16_vanilla.get_config()
    assert Supply(MEASURED["host"]) == SUPPLY
    config.augment.backend = "device"
    assert known_supply(config.augment) == Supply(MEASURED["device"])
    config.augment.backend = "canvas"
    assert known_supply(config.augment) == Supply(None)
    config.augment.backend = "device"
    config.augment.crops.local.count = 10
    assert known_supply(config.augment) == Supply(None)
    found, _ = plan(0.1, search=False)
    assert "was not measured for these crops" in show(found, Supply(None))
