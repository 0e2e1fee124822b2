"""Batches of P SKUs with M photographs each, as a function of the seed and the step."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sampler:
    """Draws SKUs without replacement within an epoch of them; what is left of it is dropped.

    With categories each step draws on its own: categories by their number of SKUs, then SKUs.

    Attributes:
      photos: numbers of the photographs of every SKU.
      skus: P, SKUs of a batch.
      each: M, photographs of each of them; a SKU with fewer has some of them several times.
      seed: of all draws.
      categories: [number of SKUs] the category of every SKU; None: there are none.
      most: categories of a batch, which makes its negatives harder; more only where these have
        fewer SKUs than a batch.
    """

    photos: Sequence[np.ndarray]
    skus: int
    each: int
    seed: int
    categories: np.ndarray | None = None
    most: int = 0

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
        chosen = self._draw_skus(step)
        rng = np.random.default_rng((self.seed, 1, step))
        rows = [self._draw_photos(self.photos[sku], rng) for sku in chosen]
        return np.concatenate(rows), np.repeat(chosen, self.each).astype(np.int32)

    def _draw_skus(self, step: int) -> np.ndarray:
        if self.categories is None:
            epoch, place = divmod(step, self.steps_per_epoch)
            order = np.random.default_rng((self.seed, 0, epoch)).permutation(len(self.photos))
            return order[place * self.skus : (place + 1) * self.skus]
        rng = np.random.default_rng((self.seed, 0, step))
        names, sizes = np.unique(self.categories, return_counts=True)
        order = np.argsort(rng.exponential(size=len(names)) / sizes)  # large ones come early
        enough = 1 + int(np.searchsorted(np.cumsum(sizes[order]), self.skus))
        drawn = names[order[: max(self.most, enough)]]
        return rng.choice(np.flatnonzero(np.isin(self.categories, drawn)), self.skus, replace=False)

    def _draw_photos(self, photos: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.resize(rng.permutation(photos), self.each)


def make_sampler(
    photos: Sequence[np.ndarray],
    skus: int,
    each: int,
    seed: int,
    categories: np.ndarray | None = None,
    most: int = 0,
) -> Sampler:
    """A sampler whose batch is not larger than there are SKUs; for the arguments see `Sampler`.

    Raises:
      ValueError: if there are fewer than two SKUs.
    """
    if len(photos) < 2:
        raise ValueError(f"{len(photos)} SKUs to learn from; at least 2 are needed")
    return Sampler(photos, min(skus, len(photos)), each, seed, categories, most)
