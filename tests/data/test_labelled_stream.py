"""Labelled training batches: every image once per epoch, torchvision's crops, any hosts."""

import itertools
from contextlib import closing

import numpy as np
import pytest
from PIL import Image

from dino_jax.data.labelled_stream import (
    PLAIN_CROP,
    build_labelled_stream,
    draw_clamped,
    random_crop,
)

SIZE = 8


class Numbers:
    """Images of one color, their number; number 3 cannot be read."""

    class_names = ("even", "odd")

    def __init__(self, bad: int | None = None, unlabeled: int | None = None):
        self._bad, self._unlabeled = bad, unlabeled

    def __len__(self):
        return 11

    def __getitem__(self, index):
        if index == self._bad:
            raise OSError("gone")
        label = -1 if index == self._unlabeled else index % 2
        return {"image": np.full((9, 12, 3), 10 * index, np.uint8), "label": label, "name": ""}

    def name(self, index):
        return f"number {index}"


def take(count, source=None, **options):
    given = (
        dict(seed=0, image_size=SIZE, resampling="bilinear", batch_size=4, max_pixels=10**6)
        | options
    )
    with closing(build_labelled_stream(source or Numbers(), **given)) as stream:
        return list(itertools.islice(stream, count))


def numbers_in(batches):
    return np.concatenate([batch["image"][:, 0, 0, 0] // 10 for batch in batches])


def test_every_epoch_shows_every_image_once_in_its_own_order():
    batches = take(11)  # four epochs
    epochs = numbers_in(batches).reshape(4, 11)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(11))
    assert len({tuple(epoch) for epoch in epochs}) == 4
    labels = np.concatenate([batch["label"] for batch in batches])
    np.testing.assert_array_equal(labels, numbers_in(batches) % 2)
    assert batches[0]["image"].shape == (4, SIZE, SIZE, 3)


def test_hosts_share_the_same_batches():
    whole = take(5)
    parts = [take(5, host=host, hosts=2) for host in range(2)]
    for batch, *halves in zip(whole, *parts, strict=True):
        for name in batch:
            joined = np.concatenate([half[name] for half in halves])
            np.testing.assert_array_equal(joined, batch[name])


def test_an_unreadable_image_is_replaced_by_the_next_one_and_named():
    batches = take(11, Numbers(bad=3))
    lost = np.concatenate([batch["unreadable"] for batch in batches])
    assert list(lost[lost >= 0]) == [3] * 4
    assert set(numbers_in(batches)[lost == 3]) == {4}


def test_an_image_without_a_label_is_an_error():
    with pytest.raises(ValueError, match="number 5 has no label"):
        take(11, Numbers(unlabeled=5))


@pytest.mark.parametrize("resampling", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
def test_a_crop_is_part_of_the_image_resized_by_pillow(resampling):
    """The image tells where it was cut: x in red, y in green."""
    y, x = np.mgrid[:60, :90]
    image = np.stack([x, y, 0 * x], axis=-1).astype(np.uint8)
    flipped, areas = 0, []
    for seed in range(200):
        crop = random_crop(image, np.random.default_rng(seed), 16, resampling).astype(float)
        assert crop.shape == (16, 16, 3)
        columns, rows = crop[8, :, 0], crop[:, 8, 1]
        flipped += columns[0] > columns[-1]
        # A ramp of w pixels becomes 16 steps of w / 16.
        sides = [abs(line[12] - line[4]) * 2 for line in (columns, rows)]
        areas.append(np.prod(sides) / image[..., 0].size)
        assert 0.6 < sides[0] / sides[1] < 1.6
    assert 70 < flipped < 130
    assert 0.04 < min(areas) < 0.2 and 0.7 < max(areas) <= 1.05
    assert 0.4 < np.mean(areas) < 0.65  # of 0.08 to 1, and large ones do not always fit


def test_a_clamped_crop_is_drawn_once_and_never_longer_than_the_image():
    height, width, areas, cut = 30, 50, [], 0
    for seed in range(300):
        plain = np.random.default_rng(seed).random(5)
        area = height * width * (0.08 + 0.92 * plain[0])
        ratio = (3 / 4) * (16 / 9) ** plain[1]
        sides = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        found = draw_clamped(np.random.default_rng(seed), PLAIN_CROP, height, width)
        left, top, right, bottom = found.box
        assert (right - left, bottom - top) == (min(sides[0], width), min(sides[1], height))
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        assert found.flip == (plain[4] < 0.5) and not found.jitter and found.blur_radius is None
        cut += sides[1] > height
        areas.append((right - left) * (bottom - top))
    assert cut > 20 and min(areas) < 0.15 * height * width


def test_a_stream_takes_other_crops_and_changes_their_pixels():
    seen = []

    def add_one(rng, pixels):
        seen.append(rng.random())
        return pixels + np.uint8(1)

    (plain,) = take(1, draw=draw_clamped)
    (changed,) = take(1, draw=draw_clamped, distort=add_one, threads=1)
    np.testing.assert_array_equal(changed["image"], plain["image"] + 1)
    assert len(set(seen[:4])) == 4
