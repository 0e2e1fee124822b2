"""Photographs as the network gets them: random crops to learn from, usual views to measure with."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from dino_jax.data.augment import CropConfig, sample_crop_parameters
from dino_jax.data.multi_crop import apply_crop
from dino_jax.data.view import View
from dino_jax.search.photos import Photos


def crop_config(size: int) -> CropConfig:
    """Random resized crops, flips, other light; colors tell products apart, so they stay."""
    return CropConfig(
        size=(size, size),
        scale=(0.5, 1.0),
        jitter=0.8,
        saturation=0.1,
        hue=0.0,
        grayscale=0.0,
        blur=0.0,
    )


class Looks:
    """Reads photographs by number, many at once; what is drawn depends on seed, step and place."""

    def __init__(
        self,
        photos: Photos,
        names: Sequence[str],
        view: View,
        size: int,
        max_pixels: int,
        threads: int,
    ):
        """Reads nothing yet.

        Args:
          photos: their files.
          names: name of every photograph.
          view: how one becomes a square to be measured.
          size: S, side of what the network sees in pixels.
          max_pixels: of a file.
          threads: that decode.
        """
        self._photos, self._names = photos, names
        self._view, self._size = view, size
        self._max_pixels, self._crop = max_pixels, crop_config(size)
        self._pool = ThreadPoolExecutor(threads)

    def require(self, numbers: np.ndarray) -> None:
        """Checks that files are there.

        Raises:
          UnreadableImageError: names the first one that is not.
        """
        list(self._pool.map(self._photos.path, [self._names[number] for number in numbers]))

    def crops(self, numbers: np.ndarray, seed: int, step: int, first: int) -> np.ndarray:
        """[n, S, S, 3] uint8 random crops.

        Args:
          numbers: photographs.
          seed: of the run.
          step: updates before.
          first: place of the first one in the batch of all processes.
        """

        def crop(place: int, number: int) -> np.ndarray:
            pixels = self._read(number)
            rng = np.random.default_rng((seed, 3, step, first + place))
            parameters = sample_crop_parameters(rng, self._crop, *pixels.shape[:2])
            return apply_crop(pixels, parameters, self._crop)

        return np.stack(list(self._pool.map(crop, range(len(numbers)), numbers.tolist())))

    def views(self, numbers: np.ndarray, batch: int) -> Iterator[np.ndarray]:
        """Usual views of photographs, [batch, S, S, 3] uint8 at a time, the last ones repeated."""

        def look(number: int) -> np.ndarray:
            return self._view(self._read(number), self._size)

        def load(start: int) -> list[Future]:
            some = numbers[start : start + batch]
            full = np.concatenate([some, np.repeat(some[-1:], batch - len(some))])
            return [self._pool.submit(look, number) for number in full.tolist()]

        ahead = load(0)
        for start in range(0, len(numbers), batch):
            now, ahead = ahead, load(start + batch) if start + batch < len(numbers) else []
            yield np.stack([future.result() for future in now])

    def _read(self, number: int) -> np.ndarray:
        return self._photos.read(self._names[number], self._max_pixels)
