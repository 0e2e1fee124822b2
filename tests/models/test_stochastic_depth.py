"""Stochastic depth per sample and on subsets."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.devices.sharding import batch_sharding, make_mesh, replicated
from dino_jax.models.stochastic_depth import (
    choose_subsets,
    drop_rates,
    put_subset,
    subset_scale,
    subset_size,
    take_subset,
)
from dino_jax.models.vision_transformer import VisionTransformer
from dino_jax.weights import to_torch
from tests.plain_dino import gelu, layer_norm
from tests.recorded_draws import recorded_subsets

DEPTH, HEADS, DIM = 2, 2, 16


def subset_vit(**changes) -> VisionTransformer:
    settings = dict(embed_dim=DIM, depth=DEPTH, num_heads=HEADS, patch_size=8, image_size=(16, 16))
    drop = dict(drop_path_rate=0.4, drop_path_schedule="uniform", drop_path_kind="subset")
    return VisionTransformer(**settings | drop | changes)


def init(vit, seed=0):
    """Values of order one, so that every branch counts."""
    shapes = jax.eval_shape(vit.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: 0.5 * rng.normal(size=x.shape).astype(np.float32), shapes)


def images(count):
    return np.random.default_rng(1).normal(size=(count, 16, 16, 3)).astype(np.float32)


def plain_branches(variables):
    """(block, branch) -> function of [b, N, D] tokens, over official names."""
    tensors = to_torch({"params": {"backbone": variables["params"]}})

    def attention(p, x):
        x = layer_norm(x, p["norm1.weight"], p["norm1.bias"])
        q, k, v = np.split(x @ p["attn.qkv.weight"].T + p["attn.qkv.bias"], 3, axis=-1)
        mixed = []
        for part in np.split(np.arange(DIM), HEADS):
            scores = q[..., part] @ np.swapaxes(k[..., part], 1, 2) * (DIM / HEADS) ** -0.5
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            mixed.append(weights / weights.sum(-1, keepdims=True) @ v[..., part])
        return np.concatenate(mixed, -1) @ p["attn.proj.weight"].T + p["attn.proj.bias"]

    def ffn(p, x):
        x = layer_norm(x, p["norm2.weight"], p["norm2.bias"])
        x = gelu(x @ p["mlp.fc1.weight"].T + p["mlp.fc1.bias"])
        return x @ p["mlp.fc2.weight"].T + p["mlp.fc2.bias"]

    for block in range(DEPTH):
        prefix = f"backbone.blocks.{block}."
        p = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        yield from (partial(branch, p) for branch in (attention, ffn))


@pytest.mark.parametrize("group", [None, 5])
def test_recorded_permutations_give_the_official_subsets(group):
    vit = subset_vit(drop_path_group=group)
    variables, batch = init(vit), images(10)
    size, groups = group or 10, 10 // (group or 10)
    rng = np.random.default_rng(2)
    shape = (DEPTH, 2, groups)
    permutations = np.array([rng.permutation(size) for _ in range(np.prod(shape))])
    permutations = permutations.reshape(*shape, size)

    tokens = np.asarray(vit.apply(variables, batch, method="embed"))
    kept = int(size * (1 - 0.4))
    for index, branch in enumerate(plain_branches(variables)):
        before, tokens = tokens, tokens.copy()
        for number in range(groups):
            rows = number * size + permutations[index // 2, index % 2, number, :kept]
            tokens[rows] += np.asarray(branch(before[rows])) * size / kept

    norm = variables["params"]["norm"]
    expected = layer_norm(tokens, norm["scale"], norm["bias"])[:, 1:]
    with recorded_subsets({size: permutations}):
        ours = vit.apply(variables, batch, rngs={"drop_path": jax.random.key(0)})["patches"]
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_the_size_of_a_subset_rounds_down_as_in_python():
    sizes = [subset_size(*case) for case in ((90, 0.3), (64, 0.3), (3, 0.4), (1, 0.9), (10, 0.0))]
    assert sizes == [62, 44, 1, 1, 10]


def test_a_draw_keeps_different_samples_of_every_group_and_every_sample_equally_often():
    kept = choose_subsets(jax.random.key(0), batch=24, depth=500, group=8, rate=0.25)
    assert kept.shape == (500, 2, 3, 6)
    counts = np.sort(kept, -1)
    assert np.all(np.diff(counts, axis=-1) > 0)
    assert counts.min() == 0 and counts.max() == 7
    share = np.bincount(np.ravel(kept), minlength=8) / (500 * 2 * 3)
    np.testing.assert_allclose(share, 0.75, atol=5 * (0.75 * 0.25 / 3000) ** 0.5)


def test_the_mean_over_all_subsets_is_the_whole_branch():
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    pairs = [(i, j) for i in range(4) for j in range(i)]
    sums = [
        put_subset(x, take_subset(x, kept) * (1 + 2.0 * subset_scale(x, kept)), kept)
        for kept in (jnp.asarray([pair]) for pair in pairs)
    ]
    np.testing.assert_allclose(np.mean(sums, axis=0), 3 * x, rtol=1e-6)


def test_rates_grow_linearly_or_stay():
    np.testing.assert_allclose(drop_rates("linear", 0.3, 4), [0, 0.1, 0.2, 0.3], rtol=1e-6)
    np.testing.assert_allclose(drop_rates("uniform", 0.3, 4), [0.3] * 4, rtol=1e-6)


def test_a_subset_saves_the_work_of_the_dropped_samples():
    vit = subset_vit(embed_dim=64, drop_path_rate=0.5, scan_unroll=DEPTH)
    variables, batch = init(vit), images(8)

    def flops(rngs):
        run = jax.jit(lambda v, x: vit.apply(v, x, rngs=rngs)["cls"])
        return run.lower(variables, batch).compile().cost_analysis()["flops"]

    assert flops({"drop_path": jax.random.key(0)}) < 0.6 * flops({})


def test_without_a_key_no_sample_is_dropped():
    vit, batch = subset_vit(), images(4)
    variables = init(vit)
    plain = subset_vit(drop_path_kind="per_sample", drop_path_rate=0.0)
    np.testing.assert_array_equal(
        vit.apply(variables, batch)["cls"], plain.apply(variables, batch)["cls"]
    )


@pytest.mark.parametrize("kind", ["subset", "per_sample"])
def test_values_and_gradients_do_not_depend_on_the_mesh(kind):
    vit = subset_vit(drop_path_group=4, drop_path_kind=kind, remat="names")
    variables, batch = init(vit), images(16)

    def loss(variables, batch, key):
        features = vit.apply(variables, batch, rngs={"drop_path": key})
        return jnp.mean(jnp.sin(features["cls"])) + jnp.mean(features["patches"] ** 2)

    results = []
    for devices in (1, 4):
        mesh = make_mesh(1, jax.devices()[:devices])
        whole, split = replicated(mesh), batch_sharding(mesh)
        step = jax.jit(jax.value_and_grad(loss), in_shardings=(whole, split, whole))
        results.append(step(variables, batch, jax.random.key(3)))
    (value, grads), (other_value, other_grads) = results
    np.testing.assert_allclose(value, other_value, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), grads, other_grads
    )


@pytest.mark.parametrize(("group", "communicates"), [(4, False), (8, True)])
def test_a_group_on_one_device_needs_no_communication(group, communicates):
    vit = subset_vit(drop_path_group=group)
    mesh = make_mesh(1, jax.devices()[:4])
    whole, split = replicated(mesh), batch_sharding(mesh)
    run = jax.jit(
        lambda v, x, key: vit.apply(v, x, rngs={"drop_path": key})["patches"],
        in_shardings=(whole, split, whole),
        out_shardings=split,
    )
    program = run.lower(init(vit), images(16), jax.random.key(0)).compile().as_text()
    collectives = re.findall(r"all-gather|all-to-all|all-reduce|collective-permute", program)
    assert bool(collectives) == communicates


def test_a_group_that_does_not_divide_the_samples_is_a_clear_error():
    vit = subset_vit(drop_path_group=3)
    with pytest.raises(ValueError, match=r"drop_path_group \(3\) must divide the 4 samples"):
        vit.apply(init(vit), images(4), rngs={"drop_path": jax.random.key(0)})
