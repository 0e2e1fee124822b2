"""The options of a build."""

import dataclasses
from typing import Any

from dino_jax.data.building.shrink import ShrunkSource
from dino_jax.data.sources import ImageSource, build_source

PLAN = "build.json"


@dataclasses.dataclass(frozen=True)
class Options:
    """Options that determine the result of a build.

    Attributes:
      source: the source's config, as plain values.
      shards: number of shards; 0 for one per GiB, at most 1,024.
      max_pixels: larger images count as unreadable.
      drop_duplicates: whether to leave out images with the same bytes as an earlier one.
      compute_stats: whether to compute mean and std.
      measure_range: whether images of any type are read, and the limits of their numbers found.
      max_side: pixels of the longer side above which photographs are made smaller; 0: never.
    """

    source: dict[str, Any]
    shards: int
    max_pixels: int
    drop_duplicates: bool
    compute_stats: bool
    measure_range: bool = False
    max_side: int = 0


def open_source(options: Options) -> ImageSource:
    """The images that a build writes.

    Raises:
      ValueError: if the source is wrong, or images that are to be made smaller are not 8-bit RGB.
      OSError: if it is missing.
    """
    source = build_source(options.source, "SOURCE")
    if not options.max_side:
        return source
    channels, values = options.source.get("channels") or 3, options.source.get("range") or "byte"
    if options.measure_range or channels != 3 or values != "byte":
        raise ValueError(
            "--max-side is for photographs, RGB with 8 bits per channel; leave it out with "
            "--channels, --range and --measure-range"
        )
    return ShrunkSource(source, options.max_side, options.max_pixels)
