"""A catalogue of made vectors: what tells products apart, and stronger noise that does not.

The noise (angle, light) lies in directions that all products share, so a linear layer can learn to
look away from them, also for products that it has never seen.
"""

import json
from pathlib import Path

import numpy as np

DIM, INNER = 32, 10


def draw(products: int, photos: int, seed: int) -> np.ndarray:
    """[products, photos, DIM] float32."""
    basis = np.linalg.qr(np.random.default_rng(99).normal(size=(DIM, DIM)))[0]
    rng = np.random.default_rng(seed)
    inner = np.zeros((products, photos, DIM))
    inner[..., :INNER] = rng.normal(size=(products, 1, INNER))
    inner[..., INNER:] = 1.2 * rng.normal(size=(products, photos, DIM - INNER))
    return ((inner + 0.1 * rng.normal(size=inner.shape)) @ basis).astype(np.float32)


def save_embedded(folder: Path, products: int = 60, photos: int = 4, seed: int = 0) -> Path:
    """A folder as `dino-jax embed` writes it, with the products as sub-folders of the photos."""
    folder.mkdir()
    vectors = draw(products, photos, seed)
    np.save(folder / "embeddings-00000-of-00001.npy", vectors.reshape(-1, DIM))
    lines = [
        {"name": f"p{product:03}/{photo}.png", "label": f"p{product:03}"}
        for product in range(products)
        for photo in range(photos)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "images-00000-of-00001.jsonl").write_text(text)
    plan = {
        "model": "made",
        "source.kind": "folder",
        "source.path": "",
        "image_size": 32,
        "tokens": "cls",
        "layers": 1,
        "reduce": "none",
    }
    (folder / "embed.json").write_text(json.dumps(plan))
    return folder
