"""Labels carried through a video, against loops over patches."""

import jax
import numpy as np
import pytest
from PIL import Image

from dino_jax.evaluation.propagation import (
    Propagation,
    decide,
    follow_objects,
    propagate_labels,
    shrink_mask,
)


def plain_propagate(target, sources, labels, radius, top_k, temperature) -> np.ndarray:
    """Patch by patch."""
    height, width, _ = target.shape
    result = np.zeros((height, width, labels.shape[-1]))
    for y, x in np.ndindex(height, width):
        weights, values = [], []
        for frame, v, u in np.ndindex(sources.shape[:3]):
            a, b = target[y, x], sources[frame, v, u]
            cosine = a @ b / np.sqrt((a @ a) * (b @ b))
            near = max(abs(v - y), abs(u - x)) <= radius or not radius
            weights.append(np.exp(cosine / temperature) * near)
            values.append(labels[frame, v, u])
        smallest = sorted(weights)[-min(top_k, len(weights))]
        kept = np.array([w if w >= smallest else 0 for w in weights])
        result[y, x] = kept / kept.sum() @ np.array(values)
    return result


@pytest.mark.parametrize(("radius", "top_k"), [(1, 5), (2, 3), (0, 5), (1, 40)])
def test_labels_come_from_the_most_similar_patches_near_by(radius, top_k):
    rng = np.random.default_rng(radius)
    target = rng.normal(size=(4, 6, 8)).astype(np.float32)
    sources = rng.normal(size=(3, 4, 6, 8)).astype(np.float32)
    labels = rng.random((3, 4, 6, 2)).astype(np.float32)
    how = Propagation(radius=radius, top_k=top_k)
    expected = plain_propagate(target, sources, labels, radius, top_k, 0.1)
    np.testing.assert_allclose(propagate_labels(target, sources, labels, how), expected, atol=1e-5)


def test_equally_similar_sources_all_count():
    same = np.ones((2, 2, 2, 3), np.float32)
    labels = np.arange(8, dtype=np.float32).reshape(2, 2, 2, 1)
    result = propagate_labels(same[0], same, labels, Propagation(top_k=2))
    np.testing.assert_allclose(result, np.full((2, 2, 1), 3.5), atol=1e-6)


def test_a_frame_takes_labels_from_the_first_and_the_last_few_frames():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(6, 3, 5, 8)).astype(np.float32)
    first = np.eye(2, dtype=np.float32)[rng.integers(0, 2, (3, 5))]
    expected, known = [], [first]
    for frame in range(1, 6):
        used = [0, *range(max(1, frame - 2), frame)]
        sources = features[used]
        known.append(
            plain_propagate(features[frame], sources, np.stack([known[i] for i in used]), 1, 5, 0.1)
        )
        expected.append(known[-1])
    actual = list(follow_objects(features, first, Propagation(frames=2, radius=1)))
    np.testing.assert_allclose(np.stack(actual), np.stack(expected), atol=1e-5)


def test_masks_become_labels_of_patches():
    mask = np.zeros((32, 48), np.uint8)
    mask[8:24, 8:16] = 2
    labels = shrink_mask(mask, (4, 6))
    assert labels.shape == (4, 6, 3)
    np.testing.assert_array_equal(labels.argmax(-1)[:, 1], [0, 2, 2, 0])
    assert labels.sum() == 24 and labels[..., 2].sum() == 2
    nearest = np.array(Image.fromarray(mask).resize((6, 4), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(labels.argmax(-1), nearest)


def test_the_largest_stretched_label_wins():
    labels = np.zeros((3, 4, 3), np.float32)
    labels[..., 0] = 0.9
    labels[1, 2] = (0.8, 0.1, 0)  # weak everywhere, and still the strongest of its object
    decided = np.asarray(decide(labels, 4))
    assert decided.shape == (12, 16) and set(np.unique(decided)) == {0, 1}
    # Bilinear between patch centers, then each channel to [0, 1].
    rows, columns = ((np.arange(n * 4) + 0.5) / 4 - 0.5 for n in (3, 4))
    tent = [np.maximum(1 - abs(axis - at), 0) for axis, at in ((rows, 1), (columns, 2))]
    object_1 = np.outer(*tent) / np.outer(*tent).max()
    np.testing.assert_array_equal(decided == 1, object_1 > 1 - object_1)


def test_a_frame_without_objects_is_background():
    assert (np.asarray(decide(np.ones((2, 2, 1), np.float32), 2)) == 0).all()
    empty = jax.numpy.zeros((2, 2, 3)).at[..., 0].set(1.0)
    assert (np.asarray(decide(empty, 2)) == 0).all()
