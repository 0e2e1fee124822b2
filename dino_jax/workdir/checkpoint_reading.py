"""Reads checkpoints, the newest one that is sound: a whole state, or one network of it.

A checkpoint is sound if Orbax can read it, its arrays have the sums that they were saved with, and
all of its numbers are finite.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from dino_jax.workdir.checksums import (
    Checksums,
    DamagedCheckpointError,
    check_arrays,
    check_kinds,
    read_checksums,
)
from dino_jax.workdir.layout import CHECKPOINTS
from dino_jax.workdir.paths import absolute_path
from dino_jax.workdir.state_layout import (
    TreeMismatchError,
    as_part,
    part_of,
    require_same_tree,
    to_stored,
)

STATE = "state"  # an item of a checkpoint

PyTree = Any


def restore_state(
    directory: epath.Path, steps: Sequence[int], abstract: Any
) -> tuple[dict[str, PyTree], int]:
    """The newest sound state, in the layout on disk, and its step.

    Args:
      directory: of the checkpoints.
      steps: to try, the newest first.
      abstract: the state as `jax.ShapeDtypeStruct`s with shardings.

    Raises:
      ValueError: if a checkpoint is of another tree.
      OSError: if none is sound.
    """
    read = partial(_read_state, wanted=to_stored(abstract))
    return _read_newest(directory, steps, read, ())


def restore_network(
    directory: epath.Path, steps: Sequence[int], place: tuple[str, ...], abstract: PyTree
) -> tuple[PyTree, int]:
    """As `restore_state`, for one network at its place in the state."""
    return _read_newest(directory, steps, partial(_read_part, place, abstract=abstract), place)


def read_part(
    directory: epath.Path, steps: Sequence[int], place: tuple[str, ...]
) -> tuple[PyTree, int]:
    """As `restore_state`: a part as whole NumPy arrays, {} if the checkpoint has none."""
    return _read_newest(directory, steps, partial(_read_part, place), place)


def checkpoints_directory(source: ocp.CheckpointManager | epath.PathLike) -> epath.Path:
    """The directory of step directories that `source` means."""
    if isinstance(source, ocp.CheckpointManager):
        return epath.Path(source.directory)
    path = absolute_path(source)
    return path / CHECKPOINTS if (path / CHECKPOINTS).exists() else path


def steps_in(directory: epath.Path) -> list[int]:
    """Labels of the finished checkpoints, the newest first."""
    if not directory.exists():
        return []
    return sorted(ocp.utils.checkpoint_steps(directory), reverse=True)


def find_steps(
    source: ocp.CheckpointManager | epath.PathLike, step: int | None
) -> tuple[epath.Path, list[int]]:
    """The directory of `source`, and the checkpoints to try: the newest first, or only `step`.

    Raises:
      FileNotFoundError: if there is no checkpoint, or none of this step.
    """
    directory = checkpoints_directory(source)
    known = steps_in(directory)
    if not known or step not in (None, *known):
        wanted = "checkpoints" if step is None else f"checkpoint {step}"
        raise FileNotFoundError(f"no {wanted} in {directory}; steps found: {sorted(known)}")
    return directory, known if step is None else [step]


def _read_newest(
    directory: epath.Path,
    steps: Sequence[int],
    read: Callable[[epath.Path, PyTree], PyTree],
    place: tuple[str, ...],
) -> tuple[PyTree, int]:
    """The first of `steps` (newest first) that is sound on every process, and which that was."""
    failures = []
    for step in steps:
        try:
            return _read_sound(directory / str(step), read, place), step
        except TreeMismatchError as mismatch:
            raise ValueError(f"checkpoint {step} in {directory} {mismatch}") from mismatch
        except _UnsoundError as error:
            failures.append(f"  {step}: {error}")
            logging.warning("CHECKPOINT %d in %s CANNOT BE READ: %s", step, directory, error)
    raise OSError(
        f"none of the checkpoints in {directory} can be read; this run does not start from "
        "scratch over them. Repair or remove them, or use another workdir:\n" + "\n".join(failures)
    )


class _UnsoundError(Exception):
    """A checkpoint that some process cannot use; the message says why in one line."""


def _read_sound(
    folder: epath.Path, read: Callable[[epath.Path, PyTree], PyTree], place: tuple[str, ...]
) -> PyTree:
    """What `read` makes of a checkpoint, once every process has it and all of it is sound."""
    tree, checksums, error = None, None, None
    try:
        checksums = read_checksums(folder)
        stored = _stored_tree(folder / STATE)
        if checksums is not None:
            check_kinds(stored, checksums)
        tree = read(folder / STATE, stored)
    except TreeMismatchError:
        raise
    except Exception as caught:  # Orbax and TensorStore have no common class for damaged files
        error = caught
    _require_everywhere(error)
    _require_everywhere(_find_damage(tree, checksums, place))
    if checksums is None and jax.process_index() == 0:
        logging.warning(
            "checkpoint %s is of an earlier version, which made no checksums: it is not verified",
            folder,
        )
    return tree


def _find_damage(
    tree: PyTree, checksums: Checksums | None, place: tuple[str, ...]
) -> Exception | None:
    try:
        check_arrays(tree, checksums, "".join(f"{name}/" for name in place))
    except DamagedCheckpointError as error:
        return error
    return None


def _require_everywhere(error: Exception | None) -> None:
    """Raises _UnsoundError on all processes if one of them has an error."""
    if not _true_everywhere(error is None):
        cause = "unreadable on another process" if error is None else _root_cause(error)
        raise _UnsoundError(cause) from error


def _read_state(path: epath.Path, stored: PyTree, wanted: dict[str, PyTree]) -> PyTree:
    require_same_tree(stored, wanted)
    handler, options = _local_handler(ocp.StandardCheckpointHandler)
    with ocp.Checkpointer(handler, multiprocessing_options=options) as reader:
        return reader.restore(path, args=ocp.args.StandardRestore(wanted))


def _read_part(
    place: tuple[str, ...], path: epath.Path, stored: PyTree, abstract: PyTree = None
) -> PyTree:
    """One part of the state of a checkpoint, and nothing else of it.

    Args:
      place: of the part in the state.
      path: of the state.
      stored: description of the whole state.
      abstract: the part with shardings; None for NumPy arrays of what is there, if anything.
    """
    part = part_of(stored, place)
    if abstract is not None:
        require_same_tree(part, abstract)
        part, restore_args = abstract, ocp.checkpoint_utils.construct_restore_args(abstract)
    elif jax.tree.leaves(part):
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), part)
    else:
        return {}
    handler, options = _local_handler(ocp.PyTreeCheckpointHandler)
    args = ocp.args.PyTreeRestore(
        item=as_part(part, place), restore_args=as_part(restore_args, place), partial_restore=True
    )
    with ocp.Checkpointer(handler, multiprocessing_options=options) as reader:
        return part_of(reader.restore(path, args=args), place)


def _local_handler(handler_type: Any) -> tuple[Any, ocp.options.MultiprocessingOptions]:
    """A handler without barriers: a process that fails to read keeps no other process waiting."""
    process = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=process,
        active_processes={process},
        barrier_sync_key_prefix=f"restore_on_{process}",
    )
    return handler_type(multiprocessing_options=options), options


def _root_cause(error: BaseException) -> str:
    """One line about the first error of a chain; TensorStore's run over pages."""
    while error.__cause__ is not None and not isinstance(error, DamagedCheckpointError):
        error = error.__cause__
    kind = "" if isinstance(error, DamagedCheckpointError) else f"{type(error).__name__}: "
    return " ".join(f"{kind}{error}".split())[:400]


def _true_everywhere(flag: bool) -> bool:
    if jax.process_count() == 1:
        return flag
    return bool(np.all(multihost_utils.process_allgather(np.asarray(flag))))


def _stored_tree(path: epath.Path) -> dict[str, Any]:
    """The nested dict of array metadata (shape, dtype) of a checkpoint, without its arrays."""
    metadata = ocp.StandardCheckpointHandler().metadata(path)
    if metadata is None or metadata.tree is None:
        raise OSError(f"{path} has no readable _METADATA")
    return metadata.tree
