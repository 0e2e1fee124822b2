"""Batches of P SKUs with M photographs each, as a function of the seed and the step."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sampler:
    """Draws SKUs without replacement within an epoch of them; what is left of it is dropped.

    Attributes:
      photos: numbers of the photographs of every SKU.
      skus: P, SKUs of a batch.
      each: M, photographs of each of them; a SKU with fewer has some of them several times.
      seed: of all draws.
    """

    photos: Sequence[np.ndarray]
    skus: int
    each: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Batches in which no SKU comes twice."""
        return len(self.photos) // self.skus

    def draw(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The batch of a step.

        Returns:
          [P * M] numbers of photographs, those of a SKU together, and [P * M] int32 labels, the
          places of their SKUs in `photos`.
        """
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng((self.seed, 0, epoch)).permutation(len(self.photos))
        chosen = order[place * self.skus : (place + 1) * self.skus]
        rng = np.random.default_rng((self.seed, 1, step))
        rows = [self._draw_photos(self.photos[sku], rng) for sku in chosen]
        return np.concatenate(rows), np.repeat(chosen, self.each).astype(np.int32)

    def _draw_photos(self, photos: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.resize(rng.permutation(photos), self.each)


def make_sampler(photos: Sequence[np.ndarray], skus: int, each: int, seed: int) -> Sampler:
    """A sampler whose batch is not larger than there are SKUs.

    Raises:
      ValueError: if there are fewer than two SKUs.
    """
    if len(photos) < 2:
        raise ValueError(f"{len(photos)} SKUs to learn from; at least 2 are needed")
    return Sampler(photos, min(skus, len(photos)), each, seed)
