"""The options of a build."""

import dataclasses
from typing import Any

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
    """

    source: dict[str, Any]
    shards: int
    max_pixels: int
    drop_duplicates: bool
    compute_stats: bool
    measure_range: bool = False
