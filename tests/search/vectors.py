"""Vectors as those of a catalogue, and white noise, which is the worst case of a search."""

import numpy as np


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
    return (photos @ basis + 0.5 * rng.normal(size=(rows, dim))).astype(np.float32)


def gauss(rows: int, dim: int, seed: int) -> np.ndarray:
    """[rows, dim] float32."""
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
