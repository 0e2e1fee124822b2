"""A catalogue of made photographs: two written digits on a colored plate, never twice the same way.

The plate, the digits and their colors are the product; angle, size, place, light and background
are the photograph. Digits are those that the package ships.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from dino_jax.data.sources.digits import DigitsSource

SIDE, PLATE = 48, 96


def draw_product(rng: np.random.Generator, digits: list[np.ndarray]) -> Image.Image:
    """A plate with two digits, RGBA."""
    plate = np.zeros((PLATE, PLATE, 4), np.uint8)
    color, ink = rng.integers(40, 216, size=(2, 3))
    y, x = np.mgrid[:PLATE, :PLATE] / (PLATE - 1) - 0.5
    power = rng.choice([1.0, 2.0, 8.0])  # diamond, disc or square
    plate[np.abs(x) ** power + np.abs(y) ** power < 0.48**power] = [*color, 255]
    for place, digit in enumerate(digits):
        shape = np.array(Image.fromarray(digit).resize((36, 36), Image.Resampling.BICUBIC))
        top, left = 30, 12 + 36 * place
        part = plate[top : top + 36, left : left + 36]
        part[shape > 100] = [*ink, 255]
    return Image.fromarray(plate)


def draw_photo(rng: np.random.Generator, product: Image.Image) -> Image.Image:
    """One photograph of a product, [SIDE, SIDE] RGB."""
    ends = rng.integers(0, 256, size=(2, 3)).astype(np.float64)
    slope = np.linspace(0, 1, SIDE)[:, None, None]
    ground = ends[0] * (1 - slope) + ends[1] * slope + rng.normal(0, 12, size=(SIDE, SIDE, 3))
    if rng.random() < 0.5:
        ground = ground.swapaxes(0, 1)
    photo = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    side = int(SIDE * rng.uniform(0.65, 0.95))
    turned = product.rotate(rng.uniform(-35, 35), Image.Resampling.BICUBIC)
    small = turned.resize((side, side), Image.Resampling.BICUBIC)
    left, top = rng.integers(0, SIDE - side + 1, size=2).tolist()
    photo.paste(small, (left, top), small)
    light = rng.uniform(0.55, 1.35) * rng.uniform(0.85, 1.15, size=3)
    return Image.fromarray(np.clip(np.asarray(photo) * light, 0, 255).astype(np.uint8))


def save_catalogue(folder: Path, products: int, photos: int, seed: int = 0) -> Path:
    """Photographs in folders of their products: pNNN/M.png."""
    rng, source = np.random.default_rng(seed), DigitsSource("all")
    for product in range(products):
        chosen = rng.integers(len(source), size=2).tolist()
        digits = [np.asarray(source[index]["image"])[..., 0] for index in chosen]
        drawn = draw_product(rng, digits)
        place = folder / f"p{product:03}"
        place.mkdir(parents=True)
        for photo in range(photos):
            draw_photo(rng, drawn).save(place / f"{photo}.png")
    return folder
