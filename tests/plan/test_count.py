"""The compiler's count of a step, and the kernels in a program; the compiler is played."""

import dataclasses
from collections import Counter

import pytest

from configs import vits16_vanilla
from dino_jax.plan import count as counting
from dino_jax.plan.cost import Cost
from dino_jax.plan.count import count_step
from dino_jax.plan.hlo import parse_module
from dino_jax.plan.kernels import Kernel, UncountedError, find_kernels
from dino_jax.plan.topology import CHIPS, Slice

PLACE = Slice("v5e:4x4", CHIPS["v5e"], (4, 4), (None,) * 16, 4)
COST = Cost(cycles=3e8, kernels=5)
FORWARD = Kernel("mlp_branch", 8, 197, 384, 1536, 6)
BACKWARD = Kernel("mlp_branch_gradient", 8, 197, 384, 1536, 6)
HLO = """
HloModule step, is_scheduled=true

%body (p: (s32[], bf16[8,200,384])) -> (s32[], bf16[8,200,384]) {
  %p = (s32[], bf16[8,200,384]{2,1,0}) parameter(0)
  %mlp_branch.3 = bf16[8,200,384]{2,1,0} custom-call(%p), custom_call_target="tpu_custom_call"
  ROOT %t = (s32[], bf16[8,200,384]{2,1,0}) tuple(%p, %mlp_branch.3)
}

%test (q: (s32[], bf16[8,200,384])) -> pred[] {
  %q = (s32[], bf16[8,200,384]{2,1,0}) parameter(0)
  ROOT %c = pred[] constant(true)
}

ENTRY %main (a: bf16[8,200,384]) -> bf16[8,40,384] {
  %a = bf16[8,200,384]{2,1,0} parameter(0)
  %w = (s32[], bf16[8,200,384]{2,1,0}) while(%a), condition=%test, body=%body, TRIPS
  ROOT %NAME.1 = bf16[8,40,384]{2,1,0} custom-call(%w), custom_call_target="tpu_custom_call"
}
""".replace("TRIPS", 'backend_config={"known_trip_count":{"n":"6"}}')


@pytest.fixture
def counted(monkeypatch):
    """Kernels that were asked for; a run of each has 1e6 cycles, of a gradient none are known."""
    asked = []

    def count_cycles(kernel: Kernel, topology: str) -> int:
        asked.append((kernel, topology))
        if kernel == BACKWARD:
            raise UncountedError("no schedule of mlp_branch_gradient")
        return 1_000_000

    monkeypatch.setattr(counting, "count_cycles", count_cycles)
    return asked


def test_the_step_is_the_operations_and_all_runs_of_the_kernels(counted):
    count = count_step(COST, Counter({FORWARD: 12}), PLACE)
    assert counted == [(FORWARD, "v5e:4x4")]
    assert (count.xla, count.kernels, count.step) == (3e8, 12e6, 3.12e8)
    assert count.seconds(count.step) == pytest.approx(3.12e8 / 1.5e9)


def test_without_a_published_clock_there_are_cycles_only(counted):
    place = dataclasses.replace(PLACE, name="v6e:4x4", chip=CHIPS["v6e"])
    count = count_step(COST, Counter({FORWARD: 1}), place)
    assert count.step == 3.01e8 and count.seconds(count.step) is None


@pytest.mark.parametrize("kernels", [Counter({BACKWARD: 1}), "no schedule of mlp_branch_gradient"])
def test_a_kernel_that_cannot_be_counted_is_said(counted, kernels):
    count = count_step(COST, kernels, PLACE)
    assert (count.kernels, count.step) == (None, None)
    assert count.missing == "no schedule of mlp_branch_gradient"


def test_what_the_compiler_does_not_estimate_is_not_counted(counted):
    assert count_step(Cost(), Counter({FORWARD: 1}), PLACE) is None and not counted


def test_kernels_run_as_often_as_the_loops_around_them():
    found = find_kernels(parse_module(HLO.replace("NAME", "attention_branch")), config())
    local = Kernel("attention_branch", 8, 37, 384, 1536, 6)
    assert found == Counter({FORWARD: 6, local: 1})


def test_a_kernel_for_other_crops_is_an_error():
    other = HLO.replace("8,40,384", "8,48,384").replace("NAME", "attention_branch")
    with pytest.raises(UncountedError, match="attention_branch runs on 48 tokens"):
        find_kernels(parse_module(other), config())


def test_a_kernel_of_others_is_named():
    with pytest.raises(UncountedError, match="their_kernel is not one of our kernels"):
        find_kernels(parse_module(HLO.replace("NAME", "their_kernel")), config())


def test_a_program_without_kernels_has_none_whatever_its_backbone():
    plain = HLO.replace("tpu_custom_call", "Other").replace("NAME", "x")
    assert find_kernels(parse_module(plain), None) == Counter()


def config():
    return vits16_vanilla.get_config()
