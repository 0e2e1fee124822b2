"""Which images of a source are written, and the report on the others."""

from dataclasses import dataclass

import numpy as np

from dino_jax.data.build_plan import write_text
from dino_jax.data.inspection import Scan, find_originals
from dino_jax.data.sources import ImageSource

REPORT = "report.txt"


@dataclass(frozen=True)
class Selection:
    """Which images are written.

    Attributes:
      kept: [images] bool.
      originals: [images] int64 index of the first image with the same bytes.
      errors: why an image can't be used, by index.
      dropped_duplicates: whether copies are left out.
    """

    kept: np.ndarray
    originals: np.ndarray
    errors: dict[int, str]
    dropped_duplicates: bool

    @property
    def duplicates(self) -> np.ndarray:
        """Indices of the images that are copies of an earlier one."""
        return np.flatnonzero(self.originals != np.arange(len(self.originals)))


def select_images(
    source: ImageSource, scan: Scan, drop_duplicates: bool, max_unreadable: float
) -> Selection:
    """Decides which images are written.

    Raises:
      ValueError: if more than `max_unreadable` of all images, or all of them, can't be used.
    """
    unreadable = np.flatnonzero(~scan.readable).tolist()
    errors = dict(zip(unreadable, scan.errors, strict=True))
    if len(errors) > max_unreadable * len(scan.readable) or len(errors) == len(scan.readable):
        examples = [f"  {source.name(index)}: {errors[index]}" for index in unreadable[:5]]
        raise ValueError(
            f"{len(errors):,} of {len(scan.readable):,} images can't be read, such as\n"
            + "\n".join(examples)
            + f"\nIf that is so, allow it with --max-unreadable (now {max_unreadable:g} of all)"
        )
    originals = find_originals(scan.digests, scan.readable)
    is_copy = originals != np.arange(len(originals))
    return Selection(
        kept=scan.readable & ~(is_copy & drop_duplicates),
        originals=originals,
        errors=errors,
        dropped_duplicates=drop_duplicates,
    )


def summarize(selection: Selection) -> list[str]:
    """Lines for the screen and the head of the report."""
    copies = "left out" if selection.dropped_duplicates else "kept"
    return [
        f"images      {selection.kept.sum():,} of {len(selection.kept):,} are written",
        f"unreadable  {len(selection.errors):,} left out",
        f"duplicates  {len(selection.duplicates):,} {copies}",
    ]


def write_report(source: ImageSource, selection: Selection, out: str) -> None:
    """Writes report.txt: the counts, then one line for each unreadable image and each copy."""
    lines = summarize(selection)
    lines += ["", "unreadable images: name, reason"]
    lines += [f"{source.name(index)}\t{error}" for index, error in selection.errors.items()]
    lines += ["", "duplicates: name, first image with the same bytes"]
    for index in selection.duplicates.tolist():
        lines.append(f"{source.name(index)}\t{source.name(int(selection.originals[index]))}")
    write_text(f"{out}/{REPORT}", "\n".join(lines) + "\n")
