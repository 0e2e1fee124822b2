"""The images of a comparison: the digits that are shipped, and tiles of photographs of yours."""

import shutil
from pathlib import Path
from typing import Any

from PIL import Image

SIDE = 64  # pixels of a tile
HEIGHT = 12 * SIDE  # short side that photographs are reduced to
TRAIN = 0.6  # share of a photograph's columns of tiles, from the left
SUFFIXES = {".jpg", ".jpeg", ".png"}

# The papers' crops and colors (blur as in the digits' configs, for crops of 32 pixels).
PHOTO_CHANGES: dict[str, Any] = {
    "augment.crops.*.flip": 0.5,
    "dino,dinov2,simdino,simclr,byol,mocov3:augment.crops.*.saturation": 0.2,
    "dino,dinov2,simdino,simclr,byol,mocov3:augment.crops.*.hue": 0.1,
    "dino,dinov2,simdino,simclr,byol,mocov3:augment.crops.*.grayscale": 0.2,
    "dino,dinov2,simdino:augment.crops.global_1.scale": (0.4, 1.0),
    "dino,dinov2,simdino:augment.crops.global_2.scale": (0.4, 1.0),
    "dino,dinov2,simdino:augment.crops.local.scale": (0.05, 0.4),
    "simclr,byol,mocov3:augment.crops.*.scale": (0.08, 1.0),
    "mae:augment.crops.*.scale": (0.2, 1.0),
}


def cut_photos(photos: Path, out: Path) -> int:
    """Cuts each photograph into tiles of its own class, unless that was done before.

    Tiles of the left part are training images, those of the right part test images; the column
    between them is left out.

    Args:
      photos: folder of photographs.
      out: folder for "train" and "test", with one folder per photograph in each.

    Returns:
      The number of photographs.

    Raises:
      ValueError: if there are fewer than two.
    """
    files = sorted(path for path in photos.iterdir() if path.suffix.lower() in SUFFIXES)
    if len(files) < 2:
        raise ValueError(f"--photos={photos}: {len(files)} photographs, expected at least two")
    if not out.exists():
        part = out.with_name(f"{out.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        for file in files:
            _cut_photo(file, part)
        part.rename(out)
    return len(files)


def _cut_photo(file: Path, out: Path) -> None:
    with Image.open(file) as opened:
        photo = opened.convert("RGB")
    scale = HEIGHT / min(photo.size)
    width, height = (round(scale * side) for side in photo.size)
    photo = photo.resize((width, height), Image.Resampling.LANCZOS)
    columns, rows = width // SIDE, height // SIDE
    border = round(TRAIN * columns)
    for column in range(columns):
        if column == border:
            continue
        folder = out / ("train" if column < border else "test") / file.stem
        folder.mkdir(parents=True, exist_ok=True)
        for row in range(rows):
            left, top = column * SIDE, row * SIDE
            tile = photo.crop((left, top, left + SIDE, top + SIDE))
            tile.save(folder / f"{row:02}_{column:02}.png")


def changes_of(images: str, out: Path) -> dict[str, Any]:
    """Changes of the configs for one kind of images, "digits" or "photos", cut into `out`."""
    if images == "digits":
        return {}
    paths = {
        "data": out / "train",
        "evaluations.knn.train": out / "train",
        "evaluations.knn.test": out / "test",
        "evaluations.proxies.images": out / "test",
        "evaluations.agreement.images": out / "test",
    }
    changes: dict[str, Any] = {}
    for name, path in paths.items():
        changes |= {f"{name}.kind": "folder", f"{name}.path": str(path)}
    return changes | PHOTO_CHANGES
