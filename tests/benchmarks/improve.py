"""The photos that docs/improving.md measures on: digits, letters and pictures of fonts, tiles.

  python -m tests.benchmarks.improve OUT [--font=NotoColorEmoji.ttf] [--photos=FOLDER]

writes OUT/digits_0_4, OUT/digits_5_9 (a folder per digit), with --font OUT/emoji (a folder per
picture, each drawn several times), with --photos OUT/tiles_a and OUT/tiles_b (a folder per
photograph: the left and the right half of each).
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dino_jax.data.sources import DigitsSource

SIDE = 32  # pixels of digits and pictures
TILE, CUT, EACH = 32, 64, 60  # pixels of a tile, of what is cut for it, and tiles per photograph
EMOJI_SIZE = 109  # the only one that the bitmap font has
SYMBOLS = "😀😡🐶🐱🐸🐧🐟🍎🍌🍇🍕⚽🚗🚲🔑🎈"
DRAWN = 40  # of each


def write_digits(out: Path) -> None:
    for name, wanted in (("digits_0_4", range(5)), ("digits_5_9", range(5, 10))):
        for split in ("train", "test"):
            source = DigitsSource(split)
            for index in range(len(source)):
                record = source[index]
                if record["label"] in wanted:
                    save(out / name / str(record["label"]) / f"{split}{index}.png", record["image"])


def write_emoji(out: Path, font: str) -> None:
    """Pictures at random angles, sizes and places on plates of random colors."""
    face, rng = ImageFont.truetype(font, EMOJI_SIZE), np.random.default_rng(0)
    for number, symbol in enumerate(SYMBOLS):
        for copy in range(DRAWN):
            picture = Image.new("RGBA", (160, 160))
            ImageDraw.Draw(picture).text((12, 24), symbol, font=face, embedded_color=True)
            picture = picture.rotate(rng.uniform(-40, 40), Image.Resampling.BICUBIC)
            side = int(rng.uniform(0.6, 1.1) * SIDE)
            picture = picture.resize((side, side), Image.Resampling.LANCZOS)
            color = tuple(int(x) for x in rng.integers(0, 256, 3))
            plate = Image.new("RGB", (SIDE, SIDE), color)
            place = tuple(int(x) for x in rng.integers(-4, max(SIDE - side, 0) + 5, 2))
            plate.paste(picture, place, picture)
            save(out / "emoji" / f"{number:02d}" / f"{copy}.png", np.asarray(plate))


def write_tiles(out: Path, photos: Path) -> None:
    """Random tiles of the left halves of photographs (a), and of the right ones (b)."""
    rng = np.random.default_rng(0)
    for path in sorted(photos.glob("*.jpg")):
        with Image.open(path) as opened:
            opened.thumbnail((800, 800))
            pixels = np.asarray(opened.convert("RGB"))
        middle = pixels.shape[1] // 2
        for name, half in (("tiles_a", pixels[:, :middle]), ("tiles_b", pixels[:, middle:])):
            for number in range(EACH):
                top, left = (int(rng.integers(0, side - CUT)) for side in half.shape[:2])
                cut = Image.fromarray(half[top : top + CUT, left : left + CUT])
                tile = cut.resize((TILE, TILE), Image.Resampling.LANCZOS)
                save(out / name / path.stem / f"{number}.png", np.asarray(tile))


def save(path: Path, pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--font", default="")
    parser.add_argument("--photos", type=Path)
    given = parser.parse_args()
    write_digits(given.out)
    if given.font:
        write_emoji(given.out, given.font)
    if given.photos:
        write_tiles(given.out, given.photos)


if __name__ == "__main__":
    main()
