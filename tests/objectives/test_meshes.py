"""The same losses, gradients and states on meshes of 1 x 1, 4 x 1 and 2 x 2 devices."""

import jax
import numpy as np
import pytest

from dino_jax.data.block_masking import BlockMasking
from dino_jax.devices.sharding import batch_sharding, make_mesh
from dino_jax.objectives.byol import ByolObjective
from dino_jax.objectives.centering import Center, Sinkhorn
from dino_jax.objectives.dino import DinoObjective
from dino_jax.objectives.ibot import IbotObjective
from dino_jax.objectives.koleo import KoleoObjective
from dino_jax.objectives.mocov3 import Mocov3Objective
from dino_jax.objectives.simclr import SimclrObjective
from dino_jax.optim.schedules import Constant
from tests.objectives.branches import run

IMAGES, GLOBALS, VIEWS, PROTOTYPES = 16, 2, 5, 24
MASKING = BlockMasking((4, 4), GLOBALS, 4, 0.5, (0.2, 0.5))
MESHES = {"1x1": (1, 1), "4x1": (4, 1), "2x2": (4, 2)}
COMMON = ("head", PROTOTYPES, 0.1, Constant(0.07))
OBJECTIVES = {
    "dino, center": DinoObjective(*COMMON, Center(0.9)),
    "dino, sinkhorn": DinoObjective(*COMMON, Sinkhorn()),
    "ibot, center": IbotObjective(*COMMON, Center(0.9)),
    "ibot, sinkhorn": IbotObjective(*COMMON, Sinkhorn()),
    "koleo, groups": KoleoObjective(Constant(0.1), group_size=4),
    "koleo, all": KoleoObjective(Constant(0.1), group_size=0),
    "simclr": SimclrObjective(Constant(1.0)),
    "byol": ByolObjective(Constant(1.0)),
    "mocov3": Mocov3Objective(Constant(1.0)),
}


def make_inputs():
    rng = np.random.default_rng(0)
    drawn = [MASKING(0, 0, group) for group in range(IMAGES // MASKING.group_size)]
    batch = {name: np.concatenate([group[name] for group in drawn]) for name in drawn[0]}

    def tokens(*shape):
        return rng.normal(size=(IMAGES, *shape, PROTOTYPES)).astype(np.float32)

    student = {"cls": tokens(VIEWS), "patches": tokens(VIEWS, 16)}
    teacher = {"cls": tokens(GLOBALS), "patches": tokens(GLOBALS, 16)}
    return student, teacher, batch


def place(mesh_name):
    count, fsdp = MESHES[mesh_name]
    mesh = make_mesh(fsdp, jax.devices()[:count])
    return jax.device_put(make_inputs(), batch_sharding(mesh))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_results_do_not_depend_on_the_mesh(name):
    objective = OBJECTIVES[name]
    alone, *others = (run(objective, *place(mesh), objective.init()) for mesh in MESHES)
    for other in others:
        jax.tree.map(
            lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6),
            other,
            alone,
        )


@pytest.mark.parametrize("name", ["dino, sinkhorn", "ibot, sinkhorn", "koleo, groups"])
def test_groups_and_sinkhorn_move_sums_between_devices_but_no_tokens(name):
    objective = OBJECTIVES[name]
    program = run.lower(objective, *place("4x1"), objective.init()).compile().as_text()
    assert "all-reduce" in program
    for movement in ("all-gather", "all-to-all", "collective-permute"):
        assert movement not in program
