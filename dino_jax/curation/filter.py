"""The work of `dino-jax curate filter`: images that show too little are removed."""

import argparse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from dino_jax.curation.planted import absolute
from dino_jax.curation.pool import Pool
from dino_jax.curation.result import Removed, write_kept, write_removed
from dino_jax.curation.runner import Runner
from dino_jax.curation.shard_kmeans import shard_file
from dino_jax.curation.work import STEPS, Work, save_array
from dino_jax.data.decode import UnreadableImageError
from dino_jax.data.reading import read_image
from dino_jax.data.viewable import as_rgb

THREADS = 4  # that decode
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
MEASURES = ("short side", "entropy", "detail")
UNREADABLE = "unreadable"


def measure(pixels: np.ndarray) -> tuple[float, float, float]:
    """How much there is to see in an image.

    Args:
      pixels: [H, W, C] uint8.

    Returns:
      Short side in pixels; entropy of the 256 gray levels in bits, at most 8; standard deviation of
      the Laplacian of the gray levels, which blur lowers.
    """
    gray = as_rgb(pixels).astype(np.float64) @ np.array(LUMA)
    counts = np.bincount(np.round(gray).astype(np.int64).ravel(), minlength=256)
    shares = counts[counts > 0] / gray.size
    entropy = float(-(shares * np.log2(shares)).sum()) + 0.0
    inner = gray[1:-1, 1:-1]
    around = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:]
    detail = float((around - 4 * inner).std()) if inner.size else 0.0
    return float(min(gray.shape)), entropy, detail


@dataclass
class MeasureTask:
    """Measures the images of a shard.

    Attributes:
      pool: the rows.
      max_pixels: larger images are unreadable.
      out: files are `out`-SHARD.npy, [m, 3] float64, NaN where an image can't be read.
    """

    pool: Pool
    max_pixels: int
    out: str

    def __call__(self, shard: int) -> None:
        source: Any = self.pool.source()
        indices = self.pool.indices(source)
        first, end = self.pool.starts[shard], self.pool.starts[shard + 1]
        rows = self.pool.rows[slice(*np.searchsorted(self.pool.rows, [first, end]))]

        def one(row: int) -> tuple[float, float, float]:
            try:
                pixels, _, _ = read_image(source, int(indices[row]), self.max_pixels)
            except UnreadableImageError:
                return np.nan, np.nan, np.nan
            return measure(pixels)

        with ThreadPoolExecutor(THREADS) as threads:
            found = list(threads.map(one, rows.tolist()))
        save_array(shard_file(self.out, shard), np.array(found, np.float64).reshape(-1, 3))


def work(arguments: argparse.Namespace, runner: Runner) -> str:
    """Measures and writes; returns what to print."""
    pool = Pool(absolute(arguments.embedded), absolute(arguments.of))
    source = pool.source()  # nothing can be done without the images
    names = ("min_side", "min_entropy", "min_detail", "max_pixels")
    options = {
        "command": "filter",
        "embedded": absolute(arguments.embedded),
        "of": absolute(arguments.of),
        **{name: getattr(arguments, name) for name in names},
    }
    folder = Work(arguments.out, options, {"EMBEDDED": pool})
    if folder.is_done:
        folder.clean()
        return f"{arguments.out} is already complete"
    out = f"{STEPS}/measures"
    missing = [one for one in pool.parts if not folder.has(shard_file(out, one))]
    runner.each("measure", MeasureTask(pool, arguments.max_pixels, folder.path(out)), missing)
    measures = np.concatenate([folder.load(shard_file(out, one)) for one in pool.parts])
    least = np.array([arguments.min_side, arguments.min_entropy, arguments.min_detail])
    removed = reasons_of(pool.rows, measures, least)
    kept = np.setdiff1d(pool.rows, [one.row for one in removed])
    original = getattr(source, "original", source)
    said = write_kept(folder, pool, kept, np.ones(len(kept), np.int64), original)
    write_removed(folder, pool, removed)
    reasons = [one.reason for one in removed]
    counts = {one: reasons.count(one) for one in dict.fromkeys(sorted(reasons))}
    report = {"images": len(pool), "kept": len(kept), "removed": counts, "notes": said}
    folder.finish(report)
    why = ", ".join(f"{count:,} {reason}" for reason, count in counts.items()) or "none"
    return f"{arguments.out}: kept {len(kept):,} of {len(pool):,} images; removed: {why}"


def reasons_of(rows: np.ndarray, measures: np.ndarray, least: np.ndarray) -> list[Removed]:
    """Rows that go, with the first measure that is too small.

    Args:
      rows: [n] numbers.
      measures: [n, 3] of `MEASURES`; NaN where an image can't be read.
      least: [3] what each must have.
    """
    removed = []
    for row, values in zip(rows.tolist(), measures, strict=True):
        if np.isnan(values).any():
            removed.append(Removed(row, UNREADABLE))
        elif (values < least).any():
            at = int((values < least).argmax())
            removed.append(Removed(row, f"small {MEASURES[at]}", "", f"{values[at]:.4f}"))
    return removed
