"""A small crawl: photographs of two topics out of balance, near-copies and junk, and its vectors.

The vectors are made from the pixels by a fixed random projection, so near-copies are near.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from dino_jax.embedding.shards import Rows, Shards

SIDE = 40
SHARD_IMAGES = 40
MANY, FEW, COPIES = 90, 30, 30  # images of the topics, and near-copies of the first ones


def draw(topic: int, number: int) -> np.ndarray:
    """[SIDE, SIDE, 3] uint8: stripes or spots, in a color and a place of their own."""
    rng = np.random.default_rng((topic, number))
    y, x = np.mgrid[:SIDE, :SIDE]
    color = rng.uniform(0.3, 1, 3)
    phase, slope = rng.uniform(0, 6), rng.uniform(-1, 1)
    stripes = np.sin(phase + (x + slope * y) / rng.uniform(2, 4))
    center = rng.uniform(8, SIDE - 8, 2)
    spots = np.cos(np.hypot(x - center[0], y - center[1]) / rng.uniform(2, 4))
    shown = (
        128 + 100 * (stripes, spots)[topic][..., None] * color + rng.normal(0, 8, (SIDE, SIDE, 3))
    )
    return np.clip(shown, 0, 255).astype(np.uint8)


def write_pool(folder: Path) -> Path:
    """Writes the images; the topics are folders."""
    for topic, count in enumerate((MANY, FEW)):
        name = ("stripes", "spots")[topic]
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(draw(topic, number)).save(folder / name / f"{number:03}.png")
    for number in range(COPIES):  # a little brighter
        pixels = draw(0, number).astype(int) + 6
        copy = np.clip(pixels, 0, 255).astype(np.uint8)
        Image.fromarray(copy).save(folder / "stripes" / f"copy_{number:03}.png")
    (folder / "junk").mkdir()
    Image.new("RGB", (SIDE, SIDE), (90, 90, 90)).save(folder / "junk/gray.png")
    Image.fromarray(draw(0, 500)[:8, :8]).save(folder / "junk/tiny.png")
    blurred = Image.fromarray(draw(1, 500)).resize((2, 2)).resize((SIDE, SIDE))
    blurred.save(folder / "junk/blurred.png")
    (folder / "junk/broken.png").write_bytes(b"no image")
    return folder


def embed_pool(folder: Path, out: Path, shard_images: int = SHARD_IMAGES) -> Path:
    """Writes what `dino-jax embed` would, with a projection in the place of a network."""
    paths = sorted(folder.rglob("*.png"))
    projection = np.random.default_rng(7).standard_normal((3 * 20 * 20, 24))
    out.mkdir(parents=True)
    shards = Shards(str(out), -(-len(paths) // shard_images), "npy")
    for shard in range(shards.count):
        vectors, names, labels, lost = [], [], [], []
        for path in paths[shard * shard_images : (shard + 1) * shard_images]:
            try:
                with Image.open(path) as image:
                    pixels = np.asarray(image.convert("RGB").resize((20, 20)), np.float64)
            except OSError:
                lost.append(str(path))
                continue
            vectors.append((pixels - pixels.mean()).ravel() @ projection)
            names.append(str(path.relative_to(folder)))
            labels.append(path.parent.name)
        rows = np.array(vectors, np.float32).reshape(-1, 24)
        shards.write(shard, Rows(rows, names, labels, lost))
    plan = {
        "tokens": "cls",
        "shard_images": shard_images,
        "source.kind": "folder",
        "source.path": str(folder),
    }
    (out / "embed.json").write_text(json.dumps(plan))
    return out


def files_of(folder: Path) -> dict[str, bytes]:
    """Contents of all files of a result."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
