"""Losses of pairs against the recordings of pytorch-metric-learning (tests/golden/search)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.objectives.pairs import (
    contrastive,
    cosines,
    hard_triplet,
    match,
    mine,
    multi_similarity,
    nt_xent,
    soft_triplet,
    supervised_contrastive,
    symmetric_cross_entropy,
    triplet,
)


def mined(similar, masks):
    return multi_similarity(similar, mine(similar, masks, 0.1), 2, 50, 0.5)


IN_BATCH = {
    "ntxent_t0.07": lambda s, m: nt_xent(s, m, 0.07),
    "ntxent_t0.5": lambda s, m: nt_xent(s, m, 0.5),
    "supcon_t0.1": lambda s, m: supervised_contrastive(s, m, 0.1),
    "supcon_t0.07": lambda s, m: supervised_contrastive(s, m, 0.07),
    "multisimilarity": lambda s, m: multi_similarity(s, m, 2, 50, 0.5),
    "multisimilarity_mined0.1": mined,
    "contrastive": lambda s, m: contrastive(s, m, 0, 1),
    "triplet0.05": lambda s, m: triplet(s, m, 0.05),
}
WITH_REFERENCE = {
    "ntxent_t0.1_ref": lambda s, m: nt_xent(s, m, 0.1),
    "supcon_t0.1_ref": lambda s, m: supervised_contrastive(s, m, 0.1),
}


@pytest.fixture(scope="module")
def arrays(golden):
    return golden("search/metric_losses")


def require_equal(value, grads, arrays, name, ends=(".grad",)):
    np.testing.assert_allclose(value, arrays[f"{name}.loss"], rtol=1e-5)
    for grad, end in zip(grads, ends, strict=True):
        wanted = arrays[name + end]
        np.testing.assert_allclose(grad, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("name", IN_BATCH)
def test_losses_of_a_batch_equal_the_recorded_ones(arrays, name):
    masks = match(arrays["labels"])
    compute = jax.value_and_grad(lambda x: IN_BATCH[name](cosines(x, x), masks))
    value, grad = jax.jit(compute)(arrays["embeddings"])
    require_equal(value, [grad], arrays, name)


@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_losses_with_a_reference_set_equal_the_recorded_ones(arrays, name):
    masks, reference = match(arrays["labels"], arrays["ref_labels"]), arrays["ref_embeddings"]
    compute = jax.value_and_grad(lambda x: WITH_REFERENCE[name](cosines(x, reference), masks))
    value, grad = jax.jit(compute)(arrays["embeddings"])
    require_equal(value, [grad], arrays, name)


def of_two_views(a, b):
    labels = jnp.tile(jnp.arange(len(a)), 2)
    both = jnp.concatenate([a, b])
    return nt_xent(cosines(both, both), match(labels), 0.1)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("pairs_ntxent_t0.1_2N", of_two_views),
        ("pairs_symmetric_ce_t0.1", lambda a, b: symmetric_cross_entropy(cosines(a, b), 0.1)),
    ],
)
def test_losses_of_two_views_equal_the_recorded_ones(arrays, name, loss):
    value, grads = jax.value_and_grad(loss, (0, 1))(arrays["view1"], arrays["view2"])
    require_equal(value, grads, arrays, name, (".grad1", ".grad2"))


@pytest.mark.parametrize("loss", [*IN_BATCH.values(), lambda s, m: hard_triplet(s, m, 0.15)])
def test_a_batch_without_positives_has_finite_gradients(arrays, loss):
    x, masks = jnp.asarray(arrays["embeddings"]), match(jnp.arange(33))
    value, grad = jax.value_and_grad(lambda x: loss(cosines(x, x), masks))(x)
    assert np.isfinite(value) and np.isfinite(grad).all()


@pytest.mark.parametrize("loss", [nt_xent, supervised_contrastive])
def test_without_positives_nothing_is_lost_and_nothing_moves(arrays, loss):
    x, masks = jnp.asarray(arrays["embeddings"]), match(jnp.arange(33))
    value, grad = jax.value_and_grad(lambda x: loss(cosines(x, x), masks, 0.1))(x)
    kind = "ntxent" if loss is nt_xent else "supcon"
    assert value == arrays[f"no_positives_{kind}.loss"] == 0
    np.testing.assert_array_equal(grad, arrays[f"no_positives_{kind}.grad"])


def test_the_miner_keeps_the_recorded_pairs(arrays):
    x = arrays["embeddings"]
    found = mine(cosines(x, x), match(arrays["labels"]), 0.1)
    name = "multisimilarity_mined0.1"
    for mask, rows, columns in ((found.positives, ".a1", ".p"), (found.negatives, ".a2", ".n")):
        wanted = set(
            zip(arrays[name + rows].tolist(), arrays[name + columns].tolist(), strict=True)
        )
        assert set(zip(*(x.tolist() for x in np.nonzero(mask)), strict=True)) == wanted


def test_hard_triplets_are_those_of_numpy(arrays):
    x = arrays["embeddings"].astype(np.float64)
    labels = arrays["labels"]
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    far = np.linalg.norm(unit[:, None] - unit[None], axis=-1)
    same = labels[:, None] == labels
    pairs = [
        (far[i][same[i] & (np.arange(33) != i)].max(), far[i][~same[i]].min())
        for i in range(33)
        if same[i].sum() > 1
    ]
    positive, negative = np.array(pairs).T
    similar, masks = cosines(x, x), match(labels)
    wanted = np.maximum(positive - negative + 0.15, 0).mean()
    np.testing.assert_allclose(hard_triplet(similar, masks, 0.15), wanted, rtol=1e-5)
    wanted = np.log1p(np.exp(positive - negative)).mean()
    np.testing.assert_allclose(soft_triplet(similar, masks), wanted, rtol=1e-5)


def test_equal_photos_have_finite_gradients():
    x = jnp.ones((4, 3))
    masks = match(jnp.array([0, 0, 1, 1]))
    for loss in (*IN_BATCH.values(), lambda s, m: hard_triplet(s, m, 0.15), soft_triplet):
        grad = jax.grad(lambda x, loss=loss: loss(cosines(x, x), masks))(x)
        assert np.isfinite(grad).all()
