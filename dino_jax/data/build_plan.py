"""What a build makes, and the folder that belongs to it."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from dino_jax.data.sources import ImageSource
from dino_jax.data.sources.storage import is_remote, written_whole

PLAN = "build.json"
_NAMES_COMPARED = 1000


@dataclasses.dataclass(frozen=True)
class Options:
    """What decides the result of a build.

    Attributes:
      source: the source's config, as plain values.
      shards: how many; 0 for one per GiB, at most 1,024.
      max_pixels: larger images count as unreadable.
      drop_duplicates: whether to leave out images with the same bytes as an earlier one.
      compute_stats: whether to compute mean and std.
    """

    source: dict[str, Any]
    shards: int
    max_pixels: int
    drop_duplicates: bool
    compute_stats: bool

    def __post_init__(self):
        if self.shards < 0 or self.max_pixels < 1:
            raise ValueError(
                f"--shards must be >= 0 and --max-pixels >= 1, got {self.shards}, {self.max_pixels}"
            )


def open_folder(out: str, options: Options, source: ImageSource) -> None:
    """Makes the folder of a build, or checks that it belongs to the same one.

    Raises:
      ValueError: if it belongs to another build (lists the differences) or holds something else.
      OSError: if it can't be made or read.
    """
    plan = {**dataclasses.asdict(options), "images": len(source), "names": _fingerprint(source)}
    plan = _flatten(json.loads(json.dumps(plan)))
    path = epath.Path(out) / PLAN
    if path.exists():
        _require_same(_flatten(json.loads(path.read_text())), plan, out)
        return
    folder = epath.Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"--out={out} exists and is no build; choose a new or empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(f"{out}/{PLAN}", json.dumps(plan, indent=1) + "\n")


def absolute_folder(out: str) -> str:
    """The folder from the root, with "~" expanded."""
    return out.rstrip("/") if is_remote(out) else str(Path(out).expanduser().absolute())


def write_text(target: str, text: str) -> None:
    """Writes a whole file or none; names that are no UTF-8 keep their bytes."""
    with written_whole(target) as path:
        Path(path).write_bytes(os.fsencode(text))


def _fingerprint(source: ImageSource) -> str:
    """A hash of some names, evenly spaced: another list of files gives another value."""
    indices = np.linspace(0, len(source) - 1, min(len(source), _NAMES_COMPARED)).astype(int)
    names = "\n".join(source.name(index) for index in indices.tolist())
    return hashlib.sha256(os.fsencode(names)).hexdigest()[:16]


def _require_same(theirs: dict[str, Any], ours: dict[str, Any], out: str) -> None:
    lines = [
        f"  {name}: {out} has {theirs.get(name)!r}, this command has {ours.get(name)!r}"
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name) != ours.get(name)
    ]
    if lines:
        raise ValueError(
            f"{out} belongs to another build:\n"
            + "\n".join(lines)
            + "\nuse another --out, or the same options to go on with that build"
        )


def _flatten(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in section.items():
        if isinstance(value, dict) and value:
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
