"""Whole runs of MAE's step against the plain second implementation, with given masks."""

import jax
import numpy as np
import pytest

from configs import digits_mae
from dino_jax.devices.sharding import batch_sharding, make_mesh, state_sharding
from dino_jax.step.recipe import build_recipe
from tests.plain_mae import PlainMae, to_ours

STEPS, IMAGES, SIDE, PATCH, KEPT = 10, 8, 32, 8, 4
GRID = SIDE // PATCH
ENCODER, DECODER = dict(patch=PATCH, depth=2, heads=3), dict(depth=2, heads=2)


def make_config(normalize: bool):
    config = digits_mae.get_config()
    config.batch_size, config.steps_per_epoch, config.epochs = IMAGES, 2, STEPS / 2
    config.masking.group_size = IMAGES
    config.network.backbone.update(embed_dim=24, depth=2, num_heads=3)
    config.network.heads.decoder.update(embed_dim=16, depth=2, num_heads=2)
    config.objectives.mae.normalize_targets = normalize
    config.optimizer.update(lr=1e-2, reference_batch=IMAGES, warmup_epochs=1.0)
    return config


def draw(step: int):
    """Normalized images [B, 3, H, W] and a permutation of the patches [B, N]: seen ones first."""
    rng = np.random.default_rng(step)
    images = rng.normal(size=(IMAGES, 3, SIDE, SIDE)).astype(np.float32)
    return images, np.stack([rng.permutation(GRID**2) for _ in range(IMAGES)]).astype(np.int32)


def to_batch(images, order):
    keep = order[:, :KEPT]
    masks = np.ones((IMAGES, 1, GRID**2), bool)
    np.put_along_axis(masks[:, 0], keep, False, axis=1)
    crops = images.transpose(0, 2, 3, 1)[:, None]
    return {"global_crops": crops, "visible": keep[:, None], "masks": masks}


def random_tensors(state) -> dict[str, np.ndarray]:
    """Official names; values that reach every path, but for the two fixed tables."""
    rng = np.random.default_rng(0)
    params = state.networks["student"]["params"]
    width, narrow = 24, 16

    def normal(*shape):
        return (0.2 * rng.normal(size=shape)).astype(np.float32)

    def block(prefix, dim):
        return {
            **{f"{prefix}norm{i}.weight": 1 + normal(dim) for i in (1, 2)},
            **{f"{prefix}norm{i}.bias": normal(dim) for i in (1, 2)},
            f"{prefix}attn.qkv.weight": normal(3 * dim, dim),
            f"{prefix}attn.qkv.bias": normal(3 * dim),
            f"{prefix}attn.proj.weight": normal(dim, dim),
            f"{prefix}attn.proj.bias": normal(dim),
            f"{prefix}mlp.fc1.weight": normal(4 * dim, dim),
            f"{prefix}mlp.fc1.bias": normal(4 * dim),
            f"{prefix}mlp.fc2.weight": normal(dim, 4 * dim),
            f"{prefix}mlp.fc2.bias": normal(dim),
        }

    tensors = {
        "cls_token": normal(1, 1, width),
        "pos_embed": np.asarray(params["backbone"]["pos_embed"]),
        "patch_embed.proj.weight": normal(width, 3, PATCH, PATCH),
        "patch_embed.proj.bias": normal(width),
        "norm.weight": 1 + normal(width),
        "norm.bias": normal(width),
        "mask_token": normal(1, 1, narrow),
        "decoder_pos_embed": np.asarray(params["heads_decoder"]["pos_embed"]),
        "decoder_embed.weight": normal(narrow, width),
        "decoder_embed.bias": normal(narrow),
        "decoder_norm.weight": 1 + normal(narrow),
        "decoder_norm.bias": normal(narrow),
        "decoder_pred.weight": normal(3 * PATCH**2, narrow),
        "decoder_pred.bias": normal(3 * PATCH**2),
    }
    for index in range(2):
        tensors |= block(f"blocks.{index}.", width) | block(f"decoder_blocks.{index}.", narrow)
    return tensors


@pytest.mark.parametrize("normalize", [True, False])
def test_trajectory_equals_a_plain_second_implementation(normalize):
    recipe = build_recipe(make_config(normalize), 100)
    state = jax.jit(recipe.init)(jax.random.key(0))
    tensors = random_tensors(state)
    variables = to_ours(tensors, state.networks["student"])
    state = state.replace(networks={"student": variables})
    clock = np.arange(STEPS)
    plain = PlainMae(
        tensors,
        kept=KEPT,
        encoder=ENCODER,
        decoder=DECODER,
        normalize=normalize,
        lr=recipe.schedules["lr"](clock),
        weight_decay=0.05,
    )
    step = jax.jit(recipe.make_step())
    for index in range(STEPS):
        expected = plain.step(*draw(index))
        state, metrics = step(state, to_batch(*draw(index)))
        np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5, err_msg=str(index))
    actual = state.networks["student"]["params"]
    wanted = to_ours(plain.tensors, state.networks["student"])["params"]
    for tree in (actual, wanted):  # the keys' third of these has a true gradient of zero
        for blocks in (tree["backbone"]["blocks"], tree["heads_decoder"]["blocks"]):
            bias = np.array(blocks["attention"]["qkv"]["bias"]).reshape(2, 3, -1)
            blocks["attention"]["qkv"]["bias"] = np.delete(bias, 1, axis=1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=5e-5), actual, wanted)
    before = np.asarray(tensors["pos_embed"])
    np.testing.assert_array_equal(actual["backbone"]["pos_embed"], before)


@pytest.mark.parametrize("fsdp", [1, 2])
def test_four_devices_lose_as_one_does(fsdp):
    recipe = build_recipe(make_config(True), 100)
    start = jax.jit(recipe.init)(jax.random.key(0))
    batches = [to_batch(*draw(index)) for index in range(3)]
    losses = {}
    for count in (1, 4):
        mesh = make_mesh(fsdp if count > 1 else 1, jax.devices()[:count])
        step = jax.jit(recipe.make_step(mesh=mesh))
        state = jax.device_put(start, state_sharding(mesh, start))
        losses[count] = []
        for batch in batches:
            state, metrics = step(state, jax.device_put(batch, batch_sharding(mesh)))
            losses[count].append(float(metrics["loss"]))
    np.testing.assert_allclose(losses[4], losses[1], rtol=1e-5)
