"""Whole runs of DINOv3's step with a Gram teacher at double resolution, which is refreshed once."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from configs import digits_dinov3_gram
from dino_jax.data.mask_indices import index_masks
from dino_jax.devices.sharding import (
    batch_sharding,
    jit_step,
    make_mesh,
    state_sharding,
    with_sharding,
)
from dino_jax.run.whole_config import read_config
from dino_jax.step.recipe import build_recipe
from dino_jax.weights import from_torch, to_torch
from dino_jax.workdir import checkpointing
from tests.plain_gram import PlainGram

STEPS, IMAGES, LOCALS, DEPTH, PATCH, REGISTERS = 6, 4, 3, 2, 8, 2
GRID = 32 // PATCH
MASKED = (2, 4, 6, 8)  # patches of half of the crops
REFRESH = (3, 2, 1)  # one copy, after 4 steps
LOSSES = {
    "global": "dino/global_loss",
    "local": "dino/local_loss",
    "koleo": "koleo/loss",
    "ibot": "ibot/loss",
    "gram": "gram/loss",
}


def make_config(position: str = "rope"):
    config = digits_dinov3_gram.get_config()
    config.batch_size, config.steps_per_epoch, config.epochs = IMAGES, 2, STEPS / 2
    config.augment.crops.local.count = LOCALS
    config.masking.group_size = IMAGES
    config.network.dtype = "float32"
    config.network.backbone.update(
        patch_size=PATCH,
        embed_dim=24,
        depth=DEPTH,
        num_heads=3,
        registers=REGISTERS,
        drop_path_rate=0.0,
        drop_path_group=None,
        position=position,
        position_kernel="antialiased",
    )
    if position == "rope":
        config.network.backbone.rope.rescale = 1.0  # nothing random
    else:
        config.network.backbone.key_bias = True
    for name, prototypes in (("dino", 32), ("ibot", 40)):
        config.network.heads[name].update(
            out_dim=prototypes, hidden_dim=20, bottleneck_dim=12, layers=3
        )
        config.objectives[name].parts.teacher_temperature.update(
            start=0.04, peak=0.07, end=0.07, warmup_epochs=2.0, cosine_epochs=0.0
        )
    ranges = dict(warmup_epochs=1.0, cosine_epochs=1.0)
    config.objectives.dino.parts.local_weight.update(start=1.0, peak=1.0, end=0.5, **ranges)
    config.objectives.gram.parts.weight.update(start=0.5, peak=0.5, end=2.0, **ranges)
    config.objectives.koleo.group_size = IMAGES
    config.optimizer.parts.lr.update(start=1e-3, peak=1e-2, end=5e-3, **ranges)
    config.optimizer.update(
        clip_grad=0.5,
        layer_decay=0.9,
        patch_embed_lr_multiplier=0.2,
        freeze="zero_lr",
        freeze_last_layer_epochs=1.0,
    )
    config.roles.teacher.update(momentum=0.9, momentum_end=0.9)
    first, every, most = REFRESH
    config.roles.gram.update(first_step=first, every_steps=every, most_copies=most)
    del config.init_from
    return config


def draw(step: int):
    """Crops, masks and the anchor's crops of a step in the official, crop-major order."""
    rng = np.random.default_rng(step)
    sides = ((2, 32), (LOCALS, 16), (2, 64))
    crops, small, larger = (
        rng.normal(size=(views * IMAGES, 3, side, side)).astype(np.float32) for views, side in sides
    )
    masks = np.zeros((2 * IMAGES, GRID**2), bool)
    for crop, count in zip(rng.permutation(2 * IMAGES), MASKED, strict=False):
        masks[crop, rng.permutation(GRID**2)[:count]] = True
    return crops, small, masks, larger


def to_batch(crops, small, masks, larger, group=IMAGES):
    """The same draws for our step: the views of an image together, channels last.

    Masked patches are listed by groups of images.
    """

    def by_image(x):
        return x.reshape(-1, IMAGES, *x.shape[1:]).swapaxes(0, 1)

    named = {"global_crops": crops, "local_crops": small, "gram_crops": larger}
    masks = by_image(masks)
    of_group = [
        index_masks(masks[start : start + group], sum(MASKED) + 3)
        for start in range(0, IMAGES, group)
    ]
    return {
        **{name: by_image(x.transpose(0, 2, 3, 1)) for name, x in named.items()},
        "masks": masks,
        **{name: np.stack([x[name] for x in of_group]) for name in of_group[0]},
    }


def random_tensors(state) -> dict[str, np.ndarray]:
    """Official names with values that reach every path; LayerScale and norms near 1."""
    rng = np.random.default_rng(0)
    tensors = {}
    for name, value in to_torch(state.networks["student"]).items():
        noise = 0.1 * rng.normal(size=value.shape)
        tensors[name] = np.asarray((1 if name.endswith("gamma") else value) + noise, np.float32)
    return tensors


@pytest.mark.parametrize("position", ["learned", "rope"])
def test_trajectory_equals_a_plain_second_implementation(position):
    recipe = build_recipe(read_config(make_config(position)), 100)
    state = jax.jit(recipe.init)(jax.random.key(0))
    tensors = random_tensors(state)
    variables = from_torch(tensors, state.networks["student"])
    names = ("student", "teacher", "gram")
    networks = {
        name: {
            kind: {module: jax.tree.map(np.copy, variables[kind][module]) for module in modules}
            for kind, modules in state.networks[name].items()
        }
        for name in names
    }
    state, clock = state.replace(networks=networks), np.arange(STEPS)
    plain = PlainGram(
        tensors,
        dict(
            patch=PATCH,
            depth=DEPTH,
            heads=3,
            table_size=GRID,
            registers=REGISTERS,
            rope=position == "rope",
        ),
        schedules={
            **{name: rule(clock) for name, rule in recipe.schedules.items()},
            "momentum": recipe.roles["teacher"].follow.momentum(clock),
            "temperature": recipe.objectives["dino"].teacher_temperature(clock),
            "local": recipe.objectives["dino"].local_weight(clock),
            "gram": recipe.objectives["gram"].weight(clock),
        },
        layer_decay=0.9,
        clip=0.5,
        frozen_steps=2,
        refresh=REFRESH,
    )
    step, pairs = jax.jit(recipe.make_step()), 2 + 2 * LOCALS
    shares = {"global": pairs / 2, "local": pairs / (2 * LOCALS)}
    for index in range(STEPS):
        drawn = draw(index)
        expected = plain.step(*drawn)
        state, metrics = step(state, to_batch(*drawn))
        for name, logged in LOSSES.items():
            value = float(metrics[logged]) * shares.get(name, 1.0)
            # KoLeo is a mean of logarithms that goes through 0.
            atol = 4e-6 if name == "koleo" else 0
            np.testing.assert_allclose(
                value, expected[name], rtol=1e-5, atol=atol, err_msg=f"{index} {name}"
            )
    assert plain.copies == 1
    for name, wanted in (
        ("student", plain.student),
        ("teacher", plain.teacher),
        ("gram", plain.anchor),
    ):
        check_tensors(to_torch(state.networks[name]), wanted)


def check_tensors(actual, expected) -> None:
    for name, got in actual.items():
        value = expected[name]
        if name.endswith("qkv.bias"):  # the keys' third has a true gradient of zero
            got, value = (np.delete(x.reshape(3, -1), 1, 0) for x in (got, value))
        np.testing.assert_allclose(got, value, rtol=0, atol=5e-5, err_msg=name)


class Training:
    """Three steps on some devices: losses, and the states as NumPy with the words of the key."""

    def __init__(self, devices: int, fsdp: int):
        config = make_config()
        config.optimizer.adamw.eps = 1e-3  # rounding noise does not become steps
        config.roles.gram.update(first_step=1, every_steps=2)
        config.masking.group_size = 1
        self.recipe = build_recipe(read_config(config), 100)
        self.mesh = make_mesh(fsdp, jax.devices()[:devices])
        self.abstract = jax.eval_shape(self.recipe.init, jax.random.key(1))
        self.shardings = state_sharding(self.mesh, self.abstract)
        make = self.recipe.make_step(mesh=self.mesh)
        self.step = jit_step(make, self.mesh, self.shardings)
        start = jax.jit(self.recipe.init, out_shardings=self.shardings)(jax.random.key(1))
        self.states, self.losses = self.go(start, range(4))

    def go(self, state, steps):
        states, losses = [_on_host(state)], []
        for index in steps:
            batch = to_batch(*draw(index), group=1)
            batch = jax.device_put(batch, batch_sharding(self.mesh))
            state, metrics = self.step(state, batch)
            jax.block_until_ready((state, metrics))
            states.append(_on_host(state))
            losses.append([float(metrics[name]) for name in LOSSES.values()])
        return states, losses


def _on_host(state):
    return jax.device_get(dataclasses.replace(state, rng=jax.random.key_data(state.rng)))


@functools.cache
def on_one_device() -> Training:
    return Training(1, 1)


@pytest.mark.parametrize(("devices", "fsdp"), [(4, 1), (4, 2)])
def test_losses_do_not_depend_on_the_mesh(devices, fsdp):
    alone, other = on_one_device(), Training(devices, fsdp)
    np.testing.assert_allclose(other.losses, alone.losses, rtol=2e-5, atol=2e-6)
    assert np.ptp(alone.losses, axis=0).min() > 1e-6  # every one of them has moved


def test_a_run_with_an_anchor_continues_bit_for_bit(tmp_path):
    """From a checkpoint between two copies: the anchor is none of the other networks."""
    training = on_one_device()
    state = training.states[3]
    anchor, teacher = (jax.tree.leaves(state.networks[name])[0] for name in ("gram", "teacher"))
    assert np.abs(anchor - teacher).max() > 0
    first = dataclasses.replace(state, rng=jax.random.wrap_key_data(state.rng))
    checkpoints = checkpointing.open_checkpoints(tmp_path, save_every_steps=1, keep=1)
    checkpointing.save(checkpoints, 3, jax.device_put(first, training.shardings))
    checkpointing.close(checkpoints)
    checkpoints = checkpointing.open_checkpoints(tmp_path, save_every_steps=1, keep=1)
    restored, resumed = checkpointing.restore_or_init(
        checkpoints, lambda: None, with_sharding(training.abstract, training.shardings)
    )
    checkpointing.close(checkpoints)
    assert resumed
    again, _ = training.go(restored, range(3, 4))
    jax.tree.map(np.testing.assert_array_equal, again[-1], training.states[-1])
