"""Mixup, cutmix, smoothing and erasing, against plain NumPy."""

import jax
import numpy as np
import pytest

from dino_jax.evaluation.mixing import Mixing, cut_box, erase_boxes, mix, smooth

B, H, W, CLASSES = 6, 12, 10, 5
LABELS = np.array([0, 1, 2, 3, 4, 0])


def draw_images(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(B, H, W, 3)).astype(np.float32)


def test_smoothed_targets_give_every_class_a_share():
    targets = np.full((B, CLASSES), 0.1 / CLASSES)
    targets[np.arange(B), LABELS] += 0.9
    np.testing.assert_allclose(smooth(LABELS, CLASSES, 0.1), targets, rtol=1e-6)


def test_mixup_weighs_pixels_and_targets_alike():
    images, plain = draw_images(), np.eye(CLASSES)[LABELS]
    for seed in range(4):
        mixed, targets = mix(
            jax.random.key(seed), images, LABELS, CLASSES, Mixing(0.8, 0.0, 0.0, 0.0)
        )
        share = float(targets[1, 1])  # image 1 is mixed with image 4, of another class
        assert 0 <= share <= 1
        wanted = share * images + (1 - share) * images[::-1]
        np.testing.assert_allclose(mixed, wanted, rtol=0, atol=1e-5)
        np.testing.assert_allclose(targets, share * plain + (1 - share) * plain[::-1], atol=1e-6)


def test_cutmix_takes_a_box_and_counts_its_pixels():
    images, seen = draw_images(), set()
    for seed in range(6):
        mixed, targets = mix(
            jax.random.key(seed), images, LABELS, CLASSES, Mixing(0.0, 1.0, 0.0, 0.0)
        )
        other = np.any(np.asarray(mixed) != images, axis=(0, 3))
        rows, columns = (np.flatnonzero(other.any(axis=axis)) for axis in (1, 0))
        if len(rows):
            box = np.ix_(range(rows[0], rows[-1] + 1), range(columns[0], columns[-1] + 1))
            assert other[box].all() and other.sum() == len(rows) * len(columns)
            np.testing.assert_array_equal(np.asarray(mixed)[:, other], images[::-1][:, other])
        np.testing.assert_allclose(targets[1, 1], 1 - other.mean(), rtol=1e-6)
        seen.add(other.sum())
    assert len(seen) > 2


@pytest.mark.parametrize("place, share", [((0.0, 0.5), 0.3), ((0.99, 0.99), 0.5), ((0.4, 0.6), 0)])
def test_the_box_of_cutmix_is_clipped_at_the_border(place, share):
    half = [int(side * np.sqrt(1 - share)) // 2 for side in (H, W)]
    center = [int(part * side) for part, side in zip(place, (H, W), strict=True)]
    wanted = np.zeros((H, W))
    wanted[
        max(center[0] - half[0], 0) : center[0] + half[0],
        max(center[1] - half[1], 0) : center[1] + half[1],
    ] = 1
    box, kept = cut_box(np.array(place), np.array(share), H, W)
    np.testing.assert_array_equal(box, wanted)
    np.testing.assert_allclose(kept, 1 - wanted.mean(), rtol=1e-6)


def test_mixup_and_cutmix_alternate_by_batch():
    images, kinds = draw_images(), []
    for seed in range(40):
        mixed, _ = mix(jax.random.key(seed), images, LABELS, CLASSES, Mixing(0.8, 1.0, 0.1, 0.0))
        same = np.isclose(mixed, images) | np.isclose(mixed, images[::-1])
        kinds.append(bool(same.all()))
    assert 10 <= sum(kinds) <= 30


def test_erased_boxes_hold_noise_and_the_rest_stays():
    images = np.zeros((400, 16, 20, 3), np.float32)
    erased = np.asarray(erase_boxes(jax.random.key(0), images, 0.25))
    boxes = (erased != 0).all(axis=-1)
    hit = boxes.any(axis=(1, 2))
    assert 70 <= hit.sum() <= 130  # 100 expected, standard deviation 9
    shares = boxes[hit].mean(axis=(1, 2))
    assert shares.min() > 0.01 and shares.max() < 0.37 and shares.std() > 0.03
    for box in boxes[hit]:
        rows, columns = box.any(axis=1), box.any(axis=0)
        np.testing.assert_array_equal(box, rows[:, None] & columns)
    noise = erased[boxes]
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    np.testing.assert_array_equal(erase_boxes(jax.random.key(0), images, 0.0), images)
