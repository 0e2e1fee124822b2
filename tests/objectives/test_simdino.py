"""SimDINO against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.data.mask_indices import index_masks
from dino_jax.models.bottleneck_head import BottleneckHead
from dino_jax.objectives import simdino, simdino_patches
from dino_jax.objectives.base import Context
from tests.objectives.branches import run

B, V, G, D = 12, 4, 2, 5


def unit(rng, *shape):
    x = rng.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def rate(features, epsilon):
    """1/2 log det by eigenvalues, in float64, times the balancing factor."""
    n, dim = features.shape
    x = features.astype(np.float64)
    eigenvalues = np.linalg.eigvalsh(np.eye(dim) + dim / (n * epsilon) * x.T @ x)
    return 0.5 * np.log(eigenvalues).sum() * (dim + n) / (dim * n)


def spread_of(x):
    """Log of the mean of exp(-2 d²) over pairs of different rows."""
    squares = ((x[:, None] - x[None]) ** 2).sum(-1)[~np.eye(len(x), dtype=bool)]
    return np.log(np.mean(np.exp(-2 * squares)))


def build(**options):
    context = Context("student", {"dino": D}, {"dino": "cls"}, 10, 5)
    return simdino.build("config.objectives.simdino", simdino.Config(**options), context)


@pytest.mark.parametrize("group_size", [0, 4])
@pytest.mark.parametrize("spread", ["student", "mean"])
def test_the_loss_is_that_of_loops_over_pairs_and_groups(spread, group_size):
    rng = np.random.default_rng(0)
    student, teacher = unit(rng, B, V, D), unit(rng, B, G, D)
    objective = build(spread=spread, group_size=group_size, cosine_weight=1.5, epsilon=0.1)
    outcome, grads = run(objective, {"cls": student}, {"cls": teacher}, {}, {})
    pairs = [
        np.mean(np.sum(teacher[:, g] * student[:, v], -1))
        for g in range(G)
        for v in range(V)
        if g != v
    ]
    seen = student[:, :G] if spread == "student" else (student[:, :G] + teacher) / 2
    n = group_size or B
    rates = [rate(seen[i : i + n, g], 0.1) for g in range(G) for i in range(0, B, n)]
    np.testing.assert_allclose(outcome.metrics["cosine"], np.mean(pairs), rtol=1e-5)
    np.testing.assert_allclose(outcome.metrics["coding_rate"], np.mean(rates), rtol=1e-5)
    np.testing.assert_allclose(outcome.loss, -1.5 * np.mean(pairs) - np.mean(rates), rtol=1e-5)
    spreads = [spread_of(student[i : i + n, 0]) for i in range(0, B, n)]
    np.testing.assert_allclose(outcome.metrics["uniformity"], np.mean(spreads), rtol=1e-5)
    assert np.isfinite(grads["cls"]).all() and np.abs(grads["cls"]).min(axis=(0, 2)).max() > 0


def test_the_gradient_of_the_rate_is_that_of_finite_differences():
    features = unit(np.random.default_rng(1), 6, D)
    gradient = jax.grad(lambda x: simdino.coding_rate(x, 0.05))(jnp.asarray(features))
    for place in ((0, 0), (3, 2)):
        moved = [features.astype(np.float64), features.astype(np.float64)]
        moved[0][place] += 1e-5
        moved[1][place] -= 1e-5
        expected = (rate(moved[0], 0.05) - rate(moved[1], 0.05)) / 2e-5
        np.testing.assert_allclose(gradient[place], expected, rtol=1e-3)


def test_equal_features_have_a_smaller_rate_than_spread_ones():
    rng = np.random.default_rng(2)
    spread, equal = unit(rng, 64, D), np.tile(unit(rng, 1, D), (64, 1))
    assert simdino.coding_rate(jnp.asarray(spread), 0.05) > 3 * simdino.coding_rate(
        jnp.asarray(equal), 0.05
    )


def test_a_group_of_all_images_needs_the_whole_batch():
    assert build().needs.whole_batch
    needs = build(group_size=4).needs
    assert (needs.whole_batch, needs.group_size) == (False, 4)


def test_the_patch_loss_is_that_of_a_loop_over_crops():
    rng = np.random.default_rng(3)
    student, teacher = unit(rng, B, G, 9, D), unit(rng, B, G, 9, D)
    masks = rng.random((B, G, 9)) < 0.4
    masks[0, 1] = False
    listed = {name: x[None] for name, x in index_masks(masks, masks.size).items()}
    objective = simdino_patches.SimDinoPatches("dino")
    outcome, grads = run(objective, {"patches": student}, {"patches": teacher}, listed, {})
    expected = [
        -np.mean(np.sum(student[i, g] * teacher[i, g], -1)[masks[i, g]]) if masks[i, g].any() else 0
        for i in range(B)
        for g in range(G)
    ]
    np.testing.assert_allclose(outcome.loss, np.mean(expected), rtol=1e-5)
    np.testing.assert_array_equal(np.abs(grads["patches"]).max(-1) > 0, masks)


def test_an_unknown_head_is_refused():
    with pytest.raises(ValueError, match=r"head is 'simdino'; config.network.heads has \['dino'\]"):
        build(head="simdino")
    context = Context("student", {"dino": D}, {"dino": "cls"}, 10, 5)
    config = simdino_patches.Config(head="ibot")
    with pytest.raises(ValueError, match=r"head is 'ibot'; config.network.heads has \['dino'\]"):
        simdino_patches.build("config.objectives.simdino_patches", config, context)


def test_the_head_gives_unit_vectors_of_the_mlp():
    head = BottleneckHead(out_dim=4, hidden_dim=8, layers=2, batch_norm=False)
    x = jax.random.normal(jax.random.key(0), (3, 6))
    variables = head.init(jax.random.key(1), x)
    params = jax.tree.map(np.asarray, variables["params"])
    hidden = np.asarray(x) @ params["linear_0"]["kernel"] + params["linear_0"]["bias"]
    hidden = jax.nn.gelu(hidden, approximate=False)
    expected = hidden @ params["linear_1"]["kernel"] + params["linear_1"]["bias"]
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(head.apply(variables, x), expected, rtol=1e-5, atol=1e-6)
