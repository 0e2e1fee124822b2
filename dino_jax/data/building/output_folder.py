"""A folder of results that belongs to one command and its options, so that it can continue."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from dino_jax.data.sources import ImageSource
from dino_jax.foreign.json_text import read_json
from dino_jax.workdir.dotted_names import flatten
from dino_jax.workdir.layout import LOCK_JSON
from dino_jax.workdir.paths import written_whole

_NAMES_COMPARED = 1000


def open_folder(
    out: str, plan_name: str, options: dict[str, Any], source: ImageSource, what: str
) -> None:
    """Makes the folder, if it passes `check_folder`.

    Raises:
      ValueError, OSError: as `check_folder`, and if it can't be made.
    """
    plan = check_folder(out, plan_name, options, source, what)
    if not (epath.Path(out) / plan_name).exists():
        epath.Path(out).mkdir(parents=True, exist_ok=True)
        write_text(f"{out}/{plan_name}", json.dumps(plan, indent=1) + "\n")


def check_folder(
    out: str, plan_name: str, options: dict[str, Any], source: ImageSource, what: str
) -> dict[str, Any]:
    """Checks that the folder is new, or belongs to the same options and the same source.

    Args:
      out: the folder, local or gs://.
      plan_name: name of the file in it that keeps the options.
      options: options that determine the result.
      source: the images that it is made from.
      what: kind of folder for messages, such as "build".

    Returns:
      What its plan says.

    Raises:
      ValueError: if it belongs to other options (lists the differences) or holds something else.
      OSError: if it can't be read.
    """
    plan = {**options, "images": len(source), "names": _fingerprint(source)}
    plan = flatten(json.loads(json.dumps(plan)))
    path = epath.Path(out) / plan_name
    if path.exists():
        _require_same(flatten(read_json(path, 1 << 24)), plan, out, what)
        return plan
    folder = epath.Path(out)
    if folder.exists() and (not folder.is_dir() or _holds_something(folder)):
        raise ValueError(f"--out={out} exists, but not as {what} output; choose another folder")
    return plan


def write_text(target: str, text: str) -> None:
    """Writes a whole file or none; names that are not UTF-8 keep their bytes."""
    with written_whole(target) as path:
        Path(path).write_bytes(os.fsencode(text))


def _holds_something(folder: epath.Path) -> bool:
    """Whether there is more in a folder than the lock of this command."""
    return any(path.name != LOCK_JSON for path in folder.iterdir())


def _fingerprint(source: ImageSource) -> str:
    """A hash of some names, evenly spaced: another list of files gives another value."""
    indices = np.linspace(0, len(source) - 1, min(len(source), _NAMES_COMPARED)).astype(int)
    names = "\n".join(source.name(index) for index in indices.tolist())
    return hashlib.sha256(os.fsencode(names)).hexdigest()[:16]


def _require_same(theirs: dict[str, Any], ours: dict[str, Any], out: str, what: str) -> None:
    lines = [
        f"  {name}: {out} has {theirs.get(name)!r}, this command has {ours.get(name)!r}"
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name) != ours.get(name)
    ]
    if lines:
        raise ValueError(
            f"{out} belongs to another {what}:\n"
            + "\n".join(lines)
            + f"\nuse another --out, or the same options to continue that {what}"
        )
