"""Sends a run back to its last good checkpoint with lower learning rates, for `config.guard`.

A roll-back is a resume: the checkpoints after the last good check are removed, the roll-back is
recorded in `workdir/guard.json`, and the run starts again from what remains, with learning
rates multiplied by `guard.lr_factor` for every note. So the step stays the only clock,
metrics.jsonl has every step once, and a run that is killed anywhere in between continues as if
nothing had happened: until the note is written, it fails the same check again.
"""

import gc
import json
import math
from collections.abc import Callable
from typing import Any

import jax
from etils import epath
from jax.experimental import multihost_utils

from dino_jax.config.change import change
from dino_jax.workdir import checkpointing
from dino_jax.workdir.layout import GUARD_COPY_JSON, GUARD_JSON
from dino_jax.workdir.newest import note_newest
from dino_jax.workdir.paths import absolute_path, is_remote, write_atomically
from dino_jax.workdir.side_files import DAMAGE, DamagedFileError, parse_side_file, set_aside


class RollBackRequest(Exception):
    """Ends a run that must start again from its last good checkpoint.

    Attributes:
      folder: workdir.
      step: step of the check that failed.
      value: value measured there.
      every_steps: steps between two checks.
    """

    def __init__(self, folder: epath.Path, step: int, value: float, every_steps: int):
        super().__init__(f"roll back from step {step}")
        self.folder, self.step, self.value, self.every_steps = folder, step, value, every_steps


def rate_factor(config: Any, roll_backs: int) -> float:
    """The factor of the learning rates; `config` is the section `guard`."""
    return config.lr_factor**roll_backs


def with_lowered_rates(whole_config: Any, workdir: epath.PathLike) -> Any:
    """The config with the learning rates after the roll-backs of the workdir.

    Raises:
      ValueError: if guard.json is damaged.
    """
    roll_backs = len(read_guard(absolute_path(workdir))["roll_backs"])
    if not roll_backs:
        return whole_config
    factor, optimizer = rate_factor(whole_config.guard, roll_backs), whole_config.optimizer
    rates = {"optimizer.lr": optimizer.lr * factor, "optimizer.min_lr": optimizer.min_lr * factor}
    return change(whole_config, rates)


def repeat_after_roll_backs(run: Callable[[], int]) -> int:
    """Runs, and runs again from the last good checkpoint whenever the guard asks for it."""
    while True:
        try:
            return run()
        except RollBackRequest as caught:
            request = caught.with_traceback(None)  # its frames hold the state of the failed run
        gc.collect()
        back_to = roll_back(request)
        if jax.process_index() == 0:
            print(f"guard: rolled back from step {request.step} to step {back_to}", flush=True)


def roll_back(request: RollBackRequest) -> int:
    """Makes the last good checkpoint the newest one, and notes the roll-back.

    Nothing but the good checkpoint is expected from now on; then the others are removed, starting
    with the newest, and the roll-back is noted last: if this is interrupted, the run fails the same
    check again and comes back here.

    Returns:
      The step to continue from; 0 for the imported model itself.
    """
    folder = request.folder
    steps = checkpointing.checkpoint_steps(folder)
    good = max((step for step in steps if step % request.every_steps == 0), default=0)
    if jax.process_index() == 0:
        note_newest(folder, good)
        for step in sorted((step for step in steps if step > good), reverse=True):
            checkpointing.remove_checkpoint(folder, step)
        record = read_guard(folder)
        note = {"step": request.step, "value": request.value, "back_to": good}
        write_guard(folder, record | {"roll_backs": [*record["roll_backs"], note]})
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("dino_jax:roll_back")
    return good


def read_guard(folder: epath.Path) -> dict[str, Any]:
    """What guard.json of a workdir holds, or its copy if that is damaged or missing.

    A damaged one is set aside if the other is sound; otherwise all stays as it is.

    Returns:
      "reference" (None before the start) and "roll_backs".

    Raises:
      ValueError: if one is damaged, and the other is damaged or missing.
    """
    files = [folder / name for name in (GUARD_JSON, GUARD_COPY_JSON)]
    sound, damaged = [], {}
    for file in files:
        try:
            sound.append(parse_side_file(file, _parse_record))
        except FileNotFoundError:
            pass
        except DAMAGE as error:
            if is_remote(file) and isinstance(error, OSError):  # it may be sound
                raise
            damaged[file] = error
    if damaged and not sound:
        file, error = next(iter(damaged.items()))
        raise ValueError(
            f"{file} is damaged ({' '.join(str(error).split())[:200]}), and there is no sound "
            f"copy of it ({files[0].name}, {files[1].name}): it is unknown how good the imported "
            "model was and which learning rates the run has; put a copy back, or start again in a "
            "new workdir"
        )
    for file, error in damaged.items():
        set_aside(file, error, "its copy is used")
    return sound[0] if sound else {"reference": None, "roll_backs": []}


def write_guard(folder: epath.Path, record: dict[str, Any]) -> None:
    """Replaces guard.json and its copy, one after the other; only process 0 does."""
    if jax.process_index() == 0:
        text = json.dumps(record, allow_nan=False) + "\n"
        write_atomically(folder / GUARD_JSON, text)
        write_atomically(folder / GUARD_COPY_JSON, text)


def _parse_record(text: str) -> dict[str, Any]:
    record = json.loads(text)
    reference, roll_backs = record["reference"], record["roll_backs"]
    if reference is not None and not math.isfinite(reference["value"]):
        raise DamagedFileError(f"the reference is {reference['value']}")
    if not isinstance(roll_backs, list) or not all(isinstance(note, dict) for note in roll_backs):
        raise DamagedFileError("roll_backs is not a list of notes")
    return {"reference": reference, "roll_backs": roll_backs}
