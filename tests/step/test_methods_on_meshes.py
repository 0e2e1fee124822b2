"""SimCLR, BYOL, MoCo v3 and SimDINO: the same losses on any devices, and bitwise resume.

BYOL and MoCo v3 share one run, and SimCLR and SimDINO another, since BatchNorm sees their views
apart and together.
"""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import digits_byol, digits_simclr, digits_simdino
from dino_jax.config.defaults import to_config_dict
from dino_jax.devices.sharding import (
    batch_sharding,
    jit_step,
    make_mesh,
    state_sharding,
    with_sharding,
)
from dino_jax.objectives import mocov3
from dino_jax.run.whole_config import read_config
from dino_jax.step.recipe import build_recipe
from dino_jax.workdir import checkpointing

IMAGES, STEPS = 16, 3  # BatchNorm's rounding in a batch of 8 moves a contrastive loss by 1.6e-5
MESHES = {"4x1": (4, 1), "2x2": (4, 2)}


def small(config: ConfigDict) -> ConfigDict:
    config.batch_size, config.steps_per_epoch, config.epochs = IMAGES, 1, float(STEPS)
    config.network.backbone.update(embed_dim=12, depth=1, num_heads=2, drop_path_rate=0.0)
    for head in config.network.heads.values():
        head.update(hidden_dim=16, out_dim=8)
    config.optimizer.update(lr=1e-3, reference_batch=IMAGES, warmup_epochs=0.0)
    config.optimizer.adamw.eps = 1e-3  # rounding noise does not become steps
    return config


def apart() -> ConfigDict:
    config = digits_byol.get_config()
    config.objectives.mocov3 = to_config_dict(mocov3.Config())
    return small(config)


def together() -> ConfigDict:
    config = digits_simdino.get_config()
    del config.augment.crops.local
    simclr = digits_simclr.get_config()
    config.network.heads.projector = simclr.network.heads.projector
    config.objectives.simclr = simclr.objectives.simclr
    config.roles.student.sees = ("global",)
    config.roles.teacher.leaves_out = ("projector",)
    return small(config)


CONFIGS = {"apart": apart, "together": together}
LOSSES = {
    "apart": ("byol/loss", "mocov3/loss"),
    "together": ("simclr/loss", "simdino/cosine", "simdino/coding_rate"),
}


def draw_batch(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    crops = np.repeat(rng.normal(size=(IMAGES, 1, 32, 32, 3)), 2, axis=1)
    return {"global_crops": (crops + 0.3 * rng.normal(size=crops.shape)).astype(np.float32)}


class Training:
    """A training on some devices.

    Attributes:
      states: after 0, 1, … steps, as NumPy with the words of the key.
      losses: [STEPS, n] of `LOSSES`.
    """

    def __init__(self, name: str, devices: int, fsdp: int):
        self.recipe = build_recipe(read_config(CONFIGS[name]()), 100)
        self.mesh = make_mesh(fsdp, jax.devices()[:devices])
        self.abstract = jax.eval_shape(self.recipe.init, jax.random.key(1))
        self.shardings = state_sharding(self.mesh, self.abstract)
        self.step = jit_step(self.recipe.make_step(mesh=self.mesh), self.mesh, self.shardings)
        start = jax.jit(self.recipe.init, out_shardings=self.shardings)(jax.random.key(1))
        self.states, self.losses = self.go(start, range(STEPS), LOSSES[name])

    def go(self, state, steps, names=()):
        """The states before the first step and after each, and the named losses of each."""
        states, losses = [_on_host(state)], []
        for index in steps:
            batch = jax.device_put(draw_batch(index), batch_sharding(self.mesh))
            state, metrics = self.step(state, batch)
            jax.block_until_ready((state, metrics))
            states.append(_on_host(state))
            losses.append([float(metrics[name]) for name in names])
        return states, losses


def _on_host(state):
    return jax.device_get(dataclasses.replace(state, rng=jax.random.key_data(state.rng)))


@functools.cache
def on_one_device(name: str) -> Training:
    return Training(name, 1, 1)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", CONFIGS)
def test_losses_do_not_depend_on_the_mesh(name, mesh):
    alone, other = on_one_device(name), Training(name, *MESHES[mesh])
    np.testing.assert_allclose(other.losses, alone.losses, rtol=1e-5)
    assert np.ptp(alone.losses, axis=0).min() > 1e-4  # every one of them has moved


@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_continues_from_its_checkpoint_bit_for_bit(name, tmp_path):
    training = on_one_device(name)
    first = dataclasses.replace(
        training.states[1], rng=jax.random.wrap_key_data(training.states[1].rng)
    )
    checkpoints = checkpointing.open_checkpoints(tmp_path, save_every_steps=1, keep=1)
    checkpointing.save(checkpoints, 1, jax.device_put(first, training.shardings))
    checkpointing.close(checkpoints)
    checkpoints = checkpointing.open_checkpoints(tmp_path, save_every_steps=1, keep=1)
    state, resumed = checkpointing.restore_or_init(
        checkpoints, lambda: None, with_sharding(training.abstract, training.shardings)
    )
    checkpointing.close(checkpoints)
    assert resumed
    again, _ = training.go(state, range(1, STEPS))
    jax.tree.map(np.testing.assert_array_equal, again[-1], training.states[-1])
