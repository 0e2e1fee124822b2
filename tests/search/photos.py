"""Photographs of made products, and runs of the command on them."""

from pathlib import Path

import numpy as np
from PIL import Image

from dino_jax.__main__ import main

PRODUCTS, PHOTOS = 6, 3


def save_photo(path: Path, product: int, number: int, size: int = 48) -> None:
    """A photograph of a product: its pattern in its colors, with a little noise."""
    rng, noise = np.random.default_rng(product), np.random.default_rng(100 * product + number)
    coarse = rng.integers(0, 256, (4, 4, 3), np.uint8)
    image = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(image).astype(int) + noise.integers(-12, 13, (size, size, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


def save_photos(folder: Path) -> list[str]:
    """PRODUCTS x PHOTOS files; returns their names, sorted."""
    for product in range(PRODUCTS):
        for number in range(PHOTOS):
            save_photo(folder / f"p{product}-{number}.png", product, number)
    return sorted(path.name for path in folder.iterdir())


def save_table(path: Path, names: list[str]) -> Path:
    """sku and price of each photograph."""
    lines = [f"{name},{name[:2]},{10 * int(name[1])}" for name in names]
    path.write_text("\n".join(["name,sku,price", *lines]) + "\n")
    return path


def run(*arguments: object) -> int:
    return main(["search", *map(str, arguments)])
