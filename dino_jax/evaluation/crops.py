"""Random crops of images with a target for every pixel, as batches for training a probe."""

import collections
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from dino_jax.data.decode import UnreadableImageError
from dino_jax.evaluation.image_files import THREADS

AHEAD = 3  # batches that are made ahead
TRIES = 10  # tries to get a crop with enough classes (mmsegmentation)

Read = Callable[[int], tuple[np.ndarray, np.ndarray]]
Crop = Callable[[np.random.Generator, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class RandomCrop(NamedTuple):
    """Scales an image and its target, cuts a window, and flips it half of the time.

    Attributes:
      height: height of the window, pixels.
      width: width of the window, pixels.
      scales: the short side becomes the short side of the window times a number in this range;
        None: the image keeps its size.
      color: [3] uint8 outside of the image, where it ends inside of the window.
      nothing: target outside of the image.
      largest_share: limit on the share of one target value among those that are not `nothing`; up
        to `TRIES` windows are drawn until it is lower. 1 takes the first.
    """

    height: int
    width: int
    scales: tuple[float, float] | None
    color: np.ndarray
    nothing: int
    largest_share: float = 1.0

    def __call__(
        self, rng: np.random.Generator, pixels: np.ndarray, target: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """[H, W, 3] uint8 and [H, W] to [height, width, 3] and [height, width]."""
        if self.scales is not None:
            short = min(self.height, self.width) * rng.uniform(*self.scales)
            pixels = resize_short(pixels, short)
            target = resize_short(target, short, Image.Resampling.NEAREST)
        pixels, target = self._pad(pixels, target)
        window = self._draw(rng, target)
        pixels, target = pixels[window], target[window]
        if rng.random() < 0.5:
            pixels, target = pixels[:, ::-1], target[:, ::-1]
        return pixels, target

    def _pad(self, pixels: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        height, width = max(len(target), self.height), max(target.shape[1], self.width)
        if (height, width) == target.shape:
            return pixels, target
        large = np.empty((height, width, 3), np.uint8)
        large[:] = self.color
        large[: len(target), : target.shape[1]] = pixels
        below = np.full((height, width), self.nothing, target.dtype)
        below[: len(target), : target.shape[1]] = target
        return large, below

    def _draw(self, rng: np.random.Generator, target: np.ndarray) -> tuple[slice, slice]:
        window = slice(0), slice(0)
        for _ in range(TRIES):
            top = rng.integers(len(target) - self.height + 1)
            left = rng.integers(target.shape[1] - self.width + 1)
            window = slice(top, top + self.height), slice(left, left + self.width)
            if self.largest_share >= 1:
                break
            values = target[window]
            counts = np.unique(values[values != self.nothing], return_counts=True)[1]
            if len(counts) > 1 and counts.max() < self.largest_share * counts.sum():
                break
        return window


def resize_short(
    image: np.ndarray, short: float, kernel: Image.Resampling = Image.Resampling.BILINEAR
) -> np.ndarray:
    """Resizes [H, W] or [H, W, 3] to a short side in pixels; Pillow's kernels are antialiased."""
    height, width = image.shape[:2]
    scale = short / min(height, width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    return np.array(Image.fromarray(image).resize(size, kernel))


class CropStream:
    """Batches of random crops, each a function of the seed and its number alone.

    Attributes:
      lost: bool [N], images that could not be read so far; the next ones replaced them.
    """

    def __init__(self, count: int, read: Read, crop: Crop, seed: int):
        """Takes N images.

        Args:
          count: N.
          read: index to pixels and target; raises UnreadableImageError.
          crop: random generator, pixels and target to pixels and target of one shape.
          seed: seed of order and crops.
        """
        self._count, self._read, self._crop, self._seed = count, read, crop, seed
        self.lost = np.zeros(count, bool)

    def batches(self, steps: int, rows: range, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        """Yields this process's rows of the batches 0 to steps - 1.

        Args:
          steps: number of batches.
          rows: this process's rows of each batch.
          batch_size: images per batch over all processes.

        Yields:
          "image" [b, h, w, 3] uint8 and "target" [b, h, w].

        Raises:
          ValueError: if no image can be read, or an image and its target differ in size.
        """
        with ThreadPoolExecutor(THREADS) as pool:
            running: collections.deque = collections.deque()
            for step in range(steps):
                positions = [step * batch_size + row for row in rows]
                running.append([pool.submit(self._make, position) for position in positions])
                if len(running) > AHEAD:
                    yield _stack(running.popleft())
            while running:
                yield _stack(running.popleft())

    def _make(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, place = divmod(position, self._count)
        order = np.random.default_rng((self._seed, 0, epoch)).permutation(self._count)
        rng = np.random.default_rng((self._seed, 1, position))
        for index in np.roll(order, -place).tolist():
            try:
                return self._crop(rng, *self._read(index))
            except UnreadableImageError:
                self.lost[index] = True
        raise ValueError(f"none of the {self._count} training images can be read")


def _stack(futures: list) -> dict[str, np.ndarray]:
    images, targets = zip(*[future.result() for future in futures], strict=True)
    return {"image": np.stack(images), "target": np.stack(targets)}
