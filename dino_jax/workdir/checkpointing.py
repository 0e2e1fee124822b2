"""Orbax wiring: open, save, restore_or_init, load_network, close.

A checkpoint is `workdir/checkpoints/<step>/state`, the whole TrainState after `step` updates;
nothing else is needed to resume. `state_layout` says how it lies there.

Saves are asynchronous and atomic (renamed, or marked as committed on gs://), so a killed process
leaves no half checkpoint behind; after other failures (a full disk, a damaged file) the step before
is used, with a loud warning. Orbax checks the structure of its files and the length of
their chunks; `checksums` finds flipped bits in arrays.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from dino_jax.workdir.checkpoint_reading import (
    STATE,
    find_steps,
    read_part,
    restore_network,
    restore_state,
    steps_in,
)
from dino_jax.workdir.checksums import CHECKSUMS, NotFiniteStateError, compute_checksums
from dino_jax.workdir.config_json import read_config_json
from dino_jax.workdir.layout import CHECKPOINTS, UNREADABLE_CHECKPOINTS
from dino_jax.workdir.paths import absolute_path
from dino_jax.workdir.state_layout import from_stored, place_of, to_stored

DEFAULT_ROLE = "teacher"  # what version 0.1 evaluates

PyTree = Any


class HasStep(Protocol):
    """Something whose step stays on disk however old it gets; the step may change."""

    step: int | None


@dataclasses.dataclass(frozen=True)
class _KeepAlso:
    """A preservation policy of Orbax."""

    keep_also: HasStep | None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        step = self.keep_also and self.keep_also.step
        return [checkpoint.step == step for checkpoint in checkpoints]


def open_checkpoints(
    workdir: epath.PathLike,
    *,
    save_every_steps: int,
    keep: int,
    keep_last_of_every: int = 0,
    keep_also: HasStep | None = None,
) -> ocp.CheckpointManager:
    """Opens `workdir/checkpoints`, creating it if needed, and clears interrupted saves.

    Args:
      workdir: Directory of the run; local or gs://.
      save_every_steps: A checkpoint is due at every multiple of this many steps, >= 1. The first
        step is not special.
      keep: Number of newest checkpoints that stay on disk, >= 1.
      keep_last_of_every: The newest checkpoint at a multiple of this many steps stays, too; 0 for
        no such checkpoint.
      keep_also: Names a checkpoint that stays, too, if any.

    Returns:
      The manager that `save`, `restore_or_init` and `close` take. Every process must open its own.

    Raises:
      ValueError: if `save_every_steps` or `keep` is smaller than 1.
    """
    for name, value in (("save_every_steps", save_every_steps), ("keep", keep)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    policies = ocp.checkpoint_managers
    kept: list[Any] = [policies.LatestN(keep), _KeepAlso(keep_also)]
    if keep_last_of_every:
        kept.append(policies.EveryNSteps(keep_last_of_every, max_to_keep=1))
    options = ocp.CheckpointManagerOptions(
        # Not `save_interval_steps`, which also saves the first step it is offered.
        save_decision_policy=policies.FixedIntervalPolicy(save_every_steps),
        preservation_policy=policies.AnyPreservationPolicy(kept),
        cleanup_tmp_directories=True,
    )
    return ocp.CheckpointManager(absolute_path(workdir) / CHECKPOINTS, options=options)


def save(manager: ocp.CheckpointManager, step: int, state: PyTree, force: bool = False) -> bool:
    """Saves `state` as checkpoint `step` if it is due; every process calls this on every step.

    Returns once the arrays are copied off the devices (they may then be donated); the files are
    written in the background. An error of the previous background write is raised here.

    Args:
      manager: From `open_checkpoints`.
      step: Finished updates, equal to `state.step`; the checkpoint's label.
      state: The TrainState.
      force: Saves although `step` is not due (end of the run, interruption).

    Returns:
      Whether a save was started: False if it is not due, or if this step is saved already.

    Raises:
      NotFiniteStateError: if a number of the state is not finite; nothing is saved.
    """
    manager.check_for_errors()
    if step in manager.all_steps():
        return False
    if not force and not manager.should_save(step):
        return False
    stored = to_stored(state)
    try:
        checksums = compute_checksums(stored)
    except NotFiniteStateError as error:
        raise NotFiniteStateError(
            f"the state after step {step} is {error}. It is not saved; the checkpoints before it "
            "hold finite numbers only. Lower config.optimizer.lr in a new workdir."
        ) from error
    items = {STATE: ocp.args.StandardSave(stored), CHECKSUMS: ocp.args.JsonSave(checksums)}
    return manager.save(step, args=ocp.args.Composite(**items), force=force)


def restore_or_init(
    manager: ocp.CheckpointManager, init_fn: Callable[[], PyTree], abstract_state: PyTree
) -> tuple[PyTree, bool]:
    """Restores the newest readable checkpoint, or calls `init_fn` if there are none at all.

    A checkpoint that cannot be read is logged with its error, the one before it is tried, and once
    one was read the unreadable ones are moved to `workdir/checkpoints_unreadable`, so that their
    steps can be saved again.

    Args:
      manager: From `open_checkpoints`.
      init_fn: Makes the state of step 0.
      abstract_state: The state as `jax.ShapeDtypeStruct`s with the shardings wanted now; these may
        belong to another mesh or process count than the ones that saved it.

    Returns:
      The state, and whether it was restored.

    Raises:
      ValueError: if the checkpoint is of another tree: other parameters, shapes, dtypes, optimizer
        or objectives.
      OSError: if there are checkpoints but none can be read.
    """
    steps = sorted(manager.all_steps(), reverse=True)
    if not steps:
        return init_fn(), False
    stored, step = restore_state(epath.Path(manager.directory), steps, abstract_state)
    _set_aside(manager, [newer for newer in steps if newer > step], step)
    logging.info("resumed from checkpoint %d in %s", step, manager.directory)
    return from_stored(stored, abstract_state), True


def load_network(
    source: ocp.CheckpointManager | epath.PathLike,
    abstract: PyTree,
    step: int | None = None,
    role: str | None = None,
) -> PyTree:
    """Reads one network of a run, and nothing else: no optimizer state.

    Args:
      source: A manager, a workdir, or a `checkpoints` directory; nothing in it is changed.
      abstract: Variables as `jax.ShapeDtypeStruct`s with shardings, like those of
        `TrainState.networks`.
      step: Which checkpoint; None takes the newest one that can be read, and logs every one that
        cannot.
      role: Role of the network; None: the one that the run evaluates.

    Returns:
      Arrays in the structure of `abstract`.

    Raises:
      FileNotFoundError: if there is no checkpoint, or none of this step.
      ValueError: if the network of the checkpoint has other parameters, shapes or dtypes.
      OSError: if no checkpoint can be read.
    """
    directory, steps = find_steps(source, step)
    place = place_of(role or evaluated_role(directory.parent))
    network, step = restore_network(directory, steps, place, abstract)
    logging.info("loaded the %s of step %d from %s", place[-1], step, directory)
    return network


def load_teacher(
    source: ocp.CheckpointManager | epath.PathLike,
    abstract_teacher: PyTree,
    step: int | None = None,
) -> PyTree:
    """`load_network` for the network that the run evaluates, under the name of version 0.1."""
    return load_network(source, abstract_teacher, step)


def read_network(
    source: epath.PathLike, step: int | None = None, role: str | None = None
) -> tuple[PyTree, int]:
    """Reads one network of a run, of any module, as whole NumPy arrays on every process.

    Args:
      source: A workdir, or a `checkpoints` directory; nothing in it is changed.
      step: As in `load_network`.
      role: As in `load_network`.

    Returns:
      Its variables, and the step of the checkpoint.

    Raises:
      FileNotFoundError: if there is no checkpoint, or none of this step.
      ValueError: if the checkpoint has no such role.
      OSError: if no checkpoint can be read.
    """
    directory, steps = find_steps(source, step)
    role = role or evaluated_role(directory.parent)
    variables, step = read_part(directory, steps, place_of(role))
    if not variables:
        raise ValueError(f"checkpoint {step} in {directory} has no role {role!r}")
    return variables, step


def read_objectives(source: epath.PathLike, step: int) -> PyTree:
    """Reads the states of a run's objectives, {"dino": {"center": [K]}}, as `read_network`."""
    return read_part(*find_steps(source, step), ("objectives",))[0]


def evaluated_role(workdir: epath.PathLike) -> str:
    """Name of the network that the run of a workdir evaluates: `config.evaluated`.

    Raises:
      ValueError: if config.json is damaged.
    """
    config = read_config_json(workdir)
    return DEFAULT_ROLE if config is None else config.get("evaluated", DEFAULT_ROLE)


def checkpoint_steps(workdir: epath.PathLike) -> list[int]:
    """Labels of the finished checkpoints of `workdir`, the newest first; [] for a new run."""
    return steps_in(absolute_path(workdir) / CHECKPOINTS)


def remove_checkpoint(workdir: epath.PathLike, step: int) -> None:
    """Removes a checkpoint while no manager is open; if interrupted, it no longer counts as one."""
    directory = absolute_path(workdir) / CHECKPOINTS
    removed = directory.parent / f".removed.{step}"
    if removed.exists():  # left behind by a crash
        removed.rmtree()
    (directory / str(step)).rename(removed)
    removed.rmtree()


def close(manager: ocp.CheckpointManager) -> None:
    """Waits for the save in progress and closes; without it the last checkpoint is lost.

    Raises:
      Exception: the error of a failed background write, after closing.
    """
    try:
        manager.wait_until_finished()
    finally:
        manager.close()


@contextmanager
def closing(manager: ocp.CheckpointManager) -> Iterator[None]:
    """Calls `close` at the end, also after an error."""
    try:
        yield
    finally:
        close(manager)


def _set_aside(manager: ocp.CheckpointManager, steps: Sequence[int], resumed: int) -> None:
    """Moves unreadable checkpoints out of the way of future saves."""
    if not steps:
        return
    unreadable = epath.Path(manager.directory).parent / UNREADABLE_CHECKPOINTS
    if jax.process_index() == 0:
        unreadable.mkdir(parents=True, exist_ok=True)
        for step in steps:
            target = unreadable / str(step)
            if target.exists():  # the same step failed in an earlier run too
                target.rmtree()
            (epath.Path(manager.directory) / str(step)).rename(target)
            logging.warning(
                "CONTINUING FROM CHECKPOINT %d; moved the unreadable %d to %s",
                resumed,
                step,
                target,
            )
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("dino_jax:set_aside")
    manager.reload()
