"""Reads .safetensors: a header of JSON, then the memory of the tensors, one after the other.

The package safetensors reads whole files; here the header is checked against the file first, so
that nothing is read, and no memory taken, for tensors that are not there or not wanted.
"""

import math
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from dino_jax.foreign.json_text import parse_json
from dino_jax.weights.pickle_machine import RefusedError

MAX_HEADER_BYTES = 32 * 2**20  # 10,000 tensors need about one megabyte
_MAX_AXES = 32
_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype(np.int64),  # the counts of BatchNorm
}


class Tensor(NamedTuple):
    """A tensor of the file, not read yet: the bytes [start, end) of the file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.start


def _parse(file: BinaryIO) -> tuple[dict[str, Any], int, int]:
    """The header, its length, and that of the file, in bytes."""
    size = file.seek(0, 2)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
        raise _damaged(f"its header claims {length:,} bytes of {size:,}")
    try:
        header = parse_json(file.read(length))
    except ValueError as error:
        raise _damaged(f"its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise _damaged("its header is not an object")
    return header, length, size


def read_metadata(file: BinaryIO) -> dict[str, str]:
    """What the header says besides the tensors, such as a license.

    Raises:
      ValueError: as `read_header`.
    """
    told = _parse(file)[0].get("__metadata__")
    if not isinstance(told, dict):
        return {}
    return {key: value for key, value in told.items() if isinstance(value, str)}


def read_header(file: BinaryIO) -> dict[str, Tensor]:
    """The tensors of a file by name.

    Raises:
      ValueError: if it is not a safetensors file, its parts do not fit together, or a dtype is
        unknown.
    """
    header, length, size = _parse(file)
    first = 8 + length
    header.pop("__metadata__", None)
    tensors = {name: _describe(name, entry, first) for name, entry in header.items()}
    places = sorted((tensor.start, tensor.end) for tensor in tensors.values())
    starts, ends = [start for start, _ in places], [end for _, end in places]
    if [*starts, size] != [first, *ends]:
        raise _damaged(f"its tensors do not fill the {size:,} bytes one after the other")
    return tensors


def read_tensor(file: BinaryIO, tensor: Tensor) -> np.ndarray:
    """The values of a tensor, in its own dtype."""
    file.seek(tensor.start)
    return np.frombuffer(file.read(tensor.end - tensor.start), tensor.dtype).reshape(tensor.shape)


def _describe(name: str, entry: Any, first: int) -> Tensor:
    """Checks one entry of the header; its offsets count from `first`."""
    if not isinstance(entry, Mapping):
        raise _damaged(f"{name[:200]!r} is not described")
    parts: list[Any] = [entry.get(key) for key in ("dtype", "shape", "data_offsets")]
    kind, shape, offsets = parts
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise RefusedError(f"{name[:200]!r} is stored as {kind!r:.50}; known: {sorted(_DTYPES)}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise _damaged(f"{name[:200]!r} has no shape or no place")
    (start, end), dtype = offsets, _DTYPES[kind]
    if end - start != math.prod(shape) * dtype.itemsize:
        raise _damaged(f"{name[:200]!r} of shape {shape} has {end - start:,} bytes")
    return Tensor(dtype, tuple(shape), first + start, first + end)


def _are_sizes(numbers: Any) -> bool:
    return (
        isinstance(numbers, list)
        and len(numbers) <= _MAX_AXES
        and all(type(number) is int and number >= 0 for number in numbers)
    )


def _damaged(reason: str) -> RefusedError:
    return RefusedError(f"it is not a safetensors file, or is damaged: {reason}")
