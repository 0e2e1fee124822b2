"""Vectors as those of a catalogue, and white noise, which is the worst case of a search."""

import numpy as np

BLOCK = 65_536  # rows that are in float64 at once


def catalogue(rows: int, dim: int, seed: int) -> np.ndarray:
    """[rows, dim] float32: products with four photos, 64 intrinsic dimensions, noise."""
    rng = np.random.default_rng(seed)
    basis = rng.normal(size=(min(64, dim), dim))
    products = -(-rows // 4)
    categories = rng.normal(size=(max(1, products // 40), len(basis)))
    inner = categories[rng.integers(len(categories), size=products)]
    inner = inner + 0.5 * rng.normal(size=inner.shape)
    photos = np.repeat(inner, 4, axis=0)[:rows]
    photos = photos + 0.2 * rng.normal(size=photos.shape)
    found = np.empty((rows, dim), np.float32)
    for start in range(0, rows, BLOCK):
        part = photos[start : start + BLOCK]
        found[start : start + BLOCK] = part @ basis + 0.5 * rng.normal(size=(len(part), dim))
    return found


def gauss(rows: int, dim: int, seed: int) -> np.ndarray:
    """[rows, dim] float32."""
    rng, found = np.random.default_rng(seed), np.empty((rows, dim), np.float32)
    for start in range(0, rows, BLOCK):
        part = found[start : start + BLOCK]
        part[:] = rng.normal(size=part.shape)
    return found
