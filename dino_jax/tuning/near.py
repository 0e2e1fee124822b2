"""Photographs of different SKUs that are almost the same, which poison the negatives."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dino_jax.search.pairs import survey
from dino_jax.tuning.skus import NONE, Skus
from dino_jax.workdir.paths import written_whole

COLUMNS = ("cosine", "name", "sku", "other_name", "other_sku")


class Near(NamedTuple):
    """Pairs of photographs of different SKUs.

    Attributes:
      photos: [m, 2], the most similar pair first.
      cosines: [m].
    """

    photos: np.ndarray
    cosines: np.ndarray


def find_near(vectors: np.ndarray, skus: Skus, threshold: float) -> Near:
    """Finds pairs above a cosine.

    Args:
      vectors: [N, D] of length 1.
      skus: of the photographs; those without one are not compared.
      threshold: the largest cosine that is not reported.

    Raises:
      ValueError: if there are millions of them.
    """
    having = np.flatnonzero(skus.of != NONE)
    found = survey(vectors[having].astype(np.float16), threshold)
    pairs = having[found.pairs]
    different = (skus.of[pairs[:, 0]] != skus.of[pairs[:, 1]]) & (found.cosines > threshold)
    order = np.argsort(-found.cosines[different], kind="stable")
    return Near(pairs[different][order], found.cosines[different][order])


def write_near(path: Path, near: Near, names: Sequence[str], skus: Skus) -> None:
    """Writes the pairs as CSV."""
    with written_whole(path) as place, Path(place).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for (left, right), cosine in zip(near.photos.tolist(), near.cosines, strict=True):
            sides = [(names[one], skus.names[skus.of[one]]) for one in (left, right)]
            writer.writerow([f"{cosine:.6f}", *sides[0], *sides[1]])
