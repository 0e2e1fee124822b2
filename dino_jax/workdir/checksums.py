"""Checksums of the arrays of a checkpoint, and what is wrong with arrays that were read from it.

They lie in `<step>/checksums/metadata`, which is committed together with the arrays: for every path
of the tree of `state_layout` its dtype and shape and the `array_sum` of its numbers, in hexadecimal
digits. Checkpoints of earlier versions have none.
"""

import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from dino_jax.foreign.files import read_bytes
from dino_jax.workdir.array_sum import MODULUS, Sum, sum_array, sum_part
from dino_jax.workdir.side_files import MOST_BYTES
from dino_jax.workdir.state_layout import describe_tree, flatten_tree

CHECKSUMS = "checksums"  # an item of a checkpoint
MAX_NAMED = 5  # arrays that a message names

PyTree = Any
Checksums = dict[str, list[str]]  # path: [dtype and shape, 8 hexadecimal digits]


class DamagedCheckpointError(Exception):
    """A checkpoint does not hold what was saved; the message names the arrays."""


class NotFiniteStateError(ValueError):
    """A state that must not be saved; the message names the arrays."""

    exit_code = 1


def compute_checksums(tree: PyTree) -> Checksums:
    """Checksums of a tree that is about to be saved; all processes take part.

    Raises:
      NotFiniteStateError: if a number is not finite.
    """
    sums, kinds = sum_tree(tree), describe_tree(tree)
    if broken := [path for path, found in sums.items() if not found.finite]:
        raise NotFiniteStateError(f"not finite: {_name(broken)}")
    return {path: [kinds[path], _digits(sums.get(path))] for path in kinds}


def read_checksums(folder: epath.Path) -> Checksums | None:
    """The checksums of a checkpoint, None if it was saved without.

    Args:
      folder: of the checkpoint, `checkpoints/<step>`.

    Raises:
      DamagedCheckpointError: if they cannot be read.
    """
    file = folder / CHECKSUMS / "metadata"
    if not file.parent.exists():
        return None
    try:
        found = json.loads(read_bytes(file, MOST_BYTES).decode())
        for kind, digits in found.values():
            if not isinstance(kind, str) or not isinstance(digits, str):
                raise ValueError(f"{[kind, digits]!r}")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedCheckpointError(f"{file} is damaged: {error}") from error
    return found


def check_kinds(stored: PyTree, checksums: Checksums) -> None:
    """Compares the description of the stored arrays with the one beside the checksums.

    Raises:
      DamagedCheckpointError: if they differ, so that one of them is damaged.
    """
    theirs, ours = describe_tree(stored), {path: kind for path, (kind, _) in checksums.items()}
    if differing := sorted(path for path, _ in theirs.items() ^ ours.items()):
        path = differing[0]
        raise DamagedCheckpointError(
            f"its descriptions differ in {_name(dict.fromkeys(differing))}: _METADATA has "
            f"{theirs.get(path, 'nothing')}, checksums {ours.get(path, 'nothing')}"
        )


def check_arrays(tree: PyTree, checksums: Mapping[str, list[str]] | None, prefix: str = "") -> None:
    """Compares arrays with their checksums; all processes that hold a part of them take part.

    Args:
      tree: arrays read from a checkpoint.
      checksums: of the whole checkpoint; None if it has none: then they must only be finite.
      prefix: path of `tree` in the checkpoint, "" or ending with "/".

    Raises:
      DamagedCheckpointError: if an array is not the one that was saved, or not finite.
    """
    sums = sum_tree(tree)
    if checksums is not None:
        recorded = {path: checksums.get(prefix + path, ["", ""])[1] for path in sums}
        damaged = [path for path, found in sums.items() if _digits(found) != recorded[path]]
        if damaged:
            first = damaged[0]
            raise DamagedCheckpointError(
                f"damaged: {_name(damaged, prefix)} (checksum {_digits(sums[first])}, saved with "
                f"{recorded[first]})"
            )
    if broken := [path for path, found in sums.items() if not found.finite]:
        raise DamagedCheckpointError(f"not finite: {_name(broken, prefix)}")


def sum_tree(tree: PyTree) -> dict[str, Sum]:
    """The sums of all arrays by path, the same on every process.

    Arrays that are spread over processes are summed together: then all processes must call this.
    """
    arrays = {path: x for path, x in flatten_tree(tree).items() if hasattr(x, "shape")}
    own = {path: _sum_own_part(array) for path, array in arrays.items()}
    spread = [path for path, array in arrays.items() if _is_spread(array)]
    if not spread:
        return own
    parts = np.array([[own[path].number, own[path].finite] for path in spread], np.uint32)
    everybody = np.asarray(multihost_utils.process_allgather(parts), np.uint64)  # [P, N, 2]
    numbers = everybody[..., 0].sum(axis=0) % MODULUS
    finite = np.all(everybody[..., 1], axis=0).tolist()
    return own | {path: Sum(int(numbers[i]), finite[i]) for i, path in enumerate(spread)}


def _sum_own_part(array: Any) -> Sum:
    """The sum of what this process has to count: every element is counted once among all."""
    if isinstance(array, np.ndarray | np.generic):
        return sum_array(np.asarray(array))
    if jax.numpy.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    total = Sum(0, True)
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            start = [axis.start or 0 for axis in shard.index]
            total += sum_part(np.asarray(shard.data), start, array.shape)
    return total


def _is_spread(array: Any) -> bool:
    """Whether other processes hold parts of an array, or copies."""
    return isinstance(array, jax.Array) and not array.is_fully_addressable


def _digits(found: Sum | None) -> str:
    """Hexadecimal digits, "" for a subtree without arrays."""
    return "" if found is None else f"{found.number:08x}"


def _name(paths: Any, prefix: str = "") -> str:
    named = [f"{prefix}{path}" for path in paths]
    hidden = len(named) - MAX_NAMED
    return ", ".join(named[:MAX_NAMED]) + (f" and {hidden} more" if hidden > 0 else "")
