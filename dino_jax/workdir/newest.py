"""newest_checkpoint.json: what must be there again at the next start.

A run whose checkpoints are not there any more (a disk that is not mounted, a mistake with rm) looks
like a new one; without this file it would begin again over its own history.
"""

import json
import sys

import jax
import orbax.checkpoint as ocp
from etils import epath

from dino_jax.workdir.checkpointing import checkpoint_steps
from dino_jax.workdir.config_json import read_config_json
from dino_jax.workdir.json_lines import read_json_lines
from dino_jax.workdir.layout import (
    CHECKPOINTS,
    CONFIG_JSON,
    DATA_JSON,
    METRICS_JSONL,
    NEWEST_CHECKPOINT_JSON,
)
from dino_jax.workdir.paths import absolute_path, write_atomically
from dino_jax.workdir.side_files import DamagedFileError, read_side_file


class NewestCheckpoint:
    """Notes the newest whole checkpoint of a run; only process 0 does."""

    def __init__(self, workdir: epath.PathLike, manager: ocp.CheckpointManager):
        """Reads the note; `manager` is the one that saves."""
        self._path, self._manager = absolute_path(workdir) / NEWEST_CHECKPOINT_JSON, manager
        self._noted = _noted(self._path)
        self._listed = -1  # the newest step of the manager at the last look

    def note(self) -> None:
        """Notes it if there is a new one; call it after every step, and at the end."""
        if jax.process_index() or self._manager.is_saving_in_progress():
            return
        listed = max(self._manager.all_steps(), default=0)
        if listed == self._listed:
            return
        self._listed = listed
        # The manager lists a step whose save has failed, too.
        newest = max(checkpoint_steps(self._path.parent), default=0)
        if newest != self._noted:
            note_newest(self._path.parent, newest)
            self._noted = newest


def note_newest(workdir: epath.Path, step: int) -> None:
    """Notes that the newest checkpoint is that of a step; 0: there is none."""
    write_atomically(workdir / NEWEST_CHECKPOINT_JSON, json.dumps({"step": int(step)}) + "\n")


def check_history(workdir: epath.PathLike) -> list[str]:
    """Checks that a workdir with a history still has its checkpoints.

    Returns:
      A line if the newest ones are missing.

    Raises:
      ValueError: if all are.
    """
    folder = absolute_path(workdir)
    noted = _noted(folder / NEWEST_CHECKPOINT_JSON)
    steps = checkpoint_steps(folder)
    if steps:
        if steps[0] < noted:
            return [
                f"CHECKPOINT {noted} WAS SAVED BUT IS NOT THERE; continuing from {steps[0]}, and "
                "doing the steps after it again"
            ]
        return []
    what = ""
    if noted:
        what = f"a checkpoint of step {noted}"
    elif not (folder / DATA_JSON).exists():  # no run of this version
        what = _older_history(folder)
    if what:
        raise ValueError(
            f"workdir {folder} has had {what}, but there are no checkpoints in "
            f"{folder / CHECKPOINTS} now; a new run would delete its history. If a disk is not "
            "mounted or they were moved, put them back; to begin again, use another --workdir or "
            f"move this one away: mv {folder} {folder}.old"
        )
    return []


def _noted(path: epath.Path) -> int:
    """The noted step; 0 without a readable note."""
    return read_side_file(path, _parse, 0, so="the newest checkpoint is noted again")


def _parse(text: str) -> int:
    step = json.loads(text)["step"]
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise DamagedFileError(f"{step!r} is no step")
    return step


def _older_history(folder: epath.Path) -> str:
    """What the history of a run of an earlier version says of its checkpoints, "" for nothing."""
    history = read_json_lines(folder / METRICS_JSONL, sys.maxsize)
    last = max((record["step"] for record in history), default=0)
    if not last:
        return ""
    config = read_config_json(folder)
    if config is None:
        return f"a run of {last} steps (and {CONFIG_JSON} is missing, too)"
    runtime = config.get("runtime")
    every = runtime.get("save_every_steps") if isinstance(runtime, dict) else None
    due = isinstance(every, int) and last >= every
    return f"a run of {last} steps, which saved every {every}" if due else ""
