"""The choice of a source's images that are written, and the report on the others."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dino_jax.data.building.inspection import Scan, find_originals
from dino_jax.data.sources import ImageSource

REPORT = "report.txt"


@dataclass(frozen=True)
class Selection:
    """The choice of images that are written.

    Attributes:
      kept: [images] bool.
      errors: (index, reason) of every image that can't be used, in order.
      copies: (index, first) of every image with the same bytes as an earlier one, in order.
    """

    kept: np.ndarray
    errors: list[tuple[int, str]]
    copies: list[tuple[int, int]]


def select_images(
    source: ImageSource, scan: Scan, drop_duplicates: bool, max_unreadable: float
) -> Selection:
    """Decides which images are written.

    Raises:
      ValueError: if more than `max_unreadable` of all images, or all of them, can't be used.
    """
    images = len(scan.readable)
    errors = list(zip(np.flatnonzero(~scan.readable).tolist(), scan.errors, strict=True))
    check_share(source, errors[:5], len(errors), images, max_unreadable)
    originals = find_originals(scan.digests, scan.readable)
    copies = np.flatnonzero(originals != np.arange(images))
    kept = scan.readable.copy()
    if drop_duplicates:
        kept[copies] = False
    return Selection(
        kept=kept,
        errors=errors,
        copies=list(zip(copies.tolist(), originals[copies].tolist(), strict=True)),
    )


def check_share(
    source: ImageSource,
    examples: Sequence[tuple[int, str]],
    unreadable: int,
    images: int,
    max_unreadable: float,
) -> None:
    """Stops a build that would lose too many images.

    Raises:
      ValueError: if more than `max_unreadable` of all images, or all of them, can't be used.
    """
    if unreadable > max_unreadable * images or unreadable == images:
        lines = "".join(f"\n  {source.name(index)}: {error}" for index, error in examples)
        raise ValueError(
            f"{unreadable:,} of {images:,} images can't be read, such as{lines}\n"
            f"If that is expected, allow it with --max-unreadable (now {max_unreadable:g} of all)"
        )


def report_lines(
    source: ImageSource,
    written: int,
    errors: Sequence[tuple[int, str]],
    copies: Sequence[tuple[int, int]],
    dropped: bool,
) -> list[str]:
    """The lines of report.txt: counts, then one line for each unreadable image and each copy.

    Args:
      source: source of the names.
      written: number of images in the shards.
      errors: (index, reason), in order.
      copies: (index, first with the same bytes), in order.
      dropped: whether copies are left out.
    """
    lines = [
        f"images      {written:,} of {len(source):,} are written",
        f"unreadable  {len(errors):,} left out",
        f"duplicates  {len(copies):,} {'left out' if dropped else 'kept'}",
        "",
        "unreadable images: name, reason",
    ]
    lines += [f"{source.name(index)}\t{error}" for index, error in errors]
    lines += ["", "duplicates: name, first image with the same bytes"]
    lines += [f"{source.name(index)}\t{source.name(first)}" for index, first in copies]
    return lines
