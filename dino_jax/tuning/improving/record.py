"""improve.json: what an improvement was asked, how it goes, and how it ended."""

import argparse
import json
from typing import Any, NamedTuple

from etils import epath

from dino_jax.foreign.json_text import read_json
from dino_jax.tuning.improving.photos import HELD_OUT_TXT, TRAIN_TXT, Parts
from dino_jax.workdir.layout import LOCK_JSON
from dino_jax.workdir.paths import write_atomically

IMPROVE_JSON = "improve.json"
RUN, TRIAL = "run", "trial"  # folders of runs
FORMAT = 1
MOST_BYTES = 1 << 24
LEFT_BEHIND = {TRAIN_TXT, HELD_OUT_TXT, TRIAL, LOCK_JSON}  # by a start that was interrupted early
PER_START = ("workers", "distributed", "out")  # options that may differ between starts


class Record(NamedTuple):
    """Content of improve.json.

    Attributes:
      options: of the command line.
      step: checkpoint of the model.
      parts: division of the photos.
      steps: updates.
      outcome: how it ended; None as long as it has not.
    """

    options: dict[str, Any]
    step: int | None
    parts: Parts
    steps: int
    outcome: dict[str, Any] | None


def options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that decide what comes out."""
    return {name: value for name, value in vars(arguments).items() if name not in PER_START}


def read_record(folder: epath.Path, arguments: argparse.Namespace) -> Record | None:
    """What an earlier start of the same command left; None if this is the first one.

    Raises:
      ValueError: if the folder belongs to something else, or to other options.
    """
    file = folder / IMPROVE_JSON
    if not file.exists():
        others = sorted({x.name for x in folder.iterdir()} - LEFT_BEHIND) if folder.is_dir() else []
        if others or (folder.exists() and not folder.is_dir()):
            raise ValueError(
                f"--out={arguments.out} exists and is not of dino-jax improve ({others[:3]}); "
                "choose a new folder"
            )
        return None
    try:
        found: Any = read_json(file, MOST_BYTES)
        if found["format"] > FORMAT:
            raise ValueError(f"it has format {found['format']}, this version knows {FORMAT}")
        record = Record(
            found["options"],
            found["step"],
            Parts(**found["photos"]),
            found["steps"],
            found["outcome"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} cannot be read ({error}); choose a new --out") from error
    _check_options(record.options, options_of(arguments), arguments.out)
    return record


def _check_options(before: dict[str, Any], now: dict[str, Any], out: str) -> None:
    differing = [name for name in now if before.get(name) != now[name]]
    if differing:
        name = differing[0]
        raise ValueError(
            f"--out={out} was begun with {name.replace('_', '-')}={before.get(name)!r}, not "
            f"{now[name]!r}; repeat that command, or choose a new folder"
        )


def write_record(folder: epath.Path, record: Record) -> None:
    """Replaces improve.json."""
    content = {
        "format": FORMAT,
        "options": record.options,
        "step": record.step,
        "photos": record.parts._asdict(),
        "steps": record.steps,
        "outcome": record.outcome,
    }
    write_atomically(folder / IMPROVE_JSON, json.dumps(content, indent=1) + "\n")
