"""Reads pickles of plain data: dicts, lists, tuples, text, numbers and NumPy arrays of numbers.

Nothing in the pickle is executed, see `pickle_machine`: the few names with which an array is stored
are replaced by functions of our own, which take numbers only.
"""

import reprlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dino_jax.weights.pickle_machine import Buildable, RefusedError, read_pickle

_LONGEST_DTYPE = 16  # characters of its name, such as "U12" or "float64"
_KINDS = "biufSU"  # of dtypes: numbers and text, no objects


def read_plain_pickle(data: bytes) -> Any:
    """Reads a pickle of plain data without executing anything.

    Args:
      data: the file, written by Python 2 or 3.

    Returns:
      The pickled data.

    Raises:
      ValueError: if it names anything other than NumPy arrays of numbers or text, or is damaged.
    """
    try:
        return _unwrap(read_pickle(data, _KNOWN, _refuse_storage), {})
    except RecursionError as error:
        raise RefusedError("its containers are nested too deeply, or in themselves") from error


class _Dtype(Buildable):
    """A dtype: a call with its name, then a state with its byte order."""

    def __init__(self, name: str, *_: object):
        if not isinstance(name, str) or len(name) > _LONGEST_DTYPE:
            raise RefusedError(f"an array of {reprlib.repr(name)}")
        self.value = np.dtype(name)
        if self.value.kind not in _KINDS:
            raise RefusedError(f"an array of {self.value}; only numbers and text are read")

    def build(self, state: Any) -> None:
        order = state[1]
        self.value = self.value.newbyteorder(order) if order in ("<", ">") else self.value


class _Array(Buildable):
    """An array: empty first, then a state with shape, dtype and bytes."""

    def __init__(self, *_: object):
        self.value = np.zeros(0)

    def build(self, state: Any) -> None:
        _, shape, dtype, by_columns, raw = state
        self.fill(raw, dtype, shape, "F" if by_columns else "C")

    def fill(self, raw: Any, dtype: Any, shape: Any, order: str) -> "_Array":
        if order not in ("C", "F"):
            raise RefusedError(f"an array with axes in the order {reprlib.repr(order)}")
        self.value = np.frombuffer(_to_bytes(raw), _dtype_of(dtype)).reshape(shape, order=order)
        return self


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: str, *_: object) -> _Array:
    """The whole array at once, as protocol 5 stores it."""
    return _Array().fill(raw, dtype, shape, order)


def _scalar(dtype: Any, raw: Any) -> Any:
    return np.frombuffer(_to_bytes(raw), _dtype_of(dtype))[0].item()


def _encode(text: str, encoding: str) -> bytes:
    """Decodes bytes as protocol 2 stores them."""
    if encoding != "latin1":
        raise RefusedError(f"bytes encoded as {reprlib.repr(encoding)}")
    return text.encode("latin1")


def _empty_bytes(*arguments: object) -> bytes:
    """Decodes empty bytes as protocol 2 stores them."""
    if arguments:
        raise RefusedError(f"bytes made of {reprlib.repr(arguments)}")
    return b""


_CORES = ("numpy.core", "numpy._core")  # before and since NumPy 2
_KNOWN: Mapping[str, Callable[..., Any]] = {
    **{f"{core}.multiarray._reconstruct": _Array for core in _CORES},
    **{f"{core}.multiarray.scalar": _scalar for core in _CORES},
    **{f"{core}.numeric._frombuffer": _from_buffer for core in _CORES},
    "numpy.ndarray": _Array,  # which only names it
    "numpy.dtype": _Dtype,
    "_codecs.encode": _encode,
    "__builtin__.bytes": _empty_bytes,
}


def _refuse_storage(identity: Any) -> Any:
    raise RefusedError(f"it refers to {reprlib.repr(identity)} outside of the file")


def _unwrap(value: Any, known: dict[int, Any]) -> Any:
    """Replaces placeholders by their values, also inside lists, tuples and dicts.

    Args:
      value: a part of what a pickle holds.
      known: results by the identity of the container, so that one in many places is done once.
    """
    if isinstance(value, (_Array, _Dtype)):
        return value.value
    if not isinstance(value, (dict, list, tuple)):
        return value
    if id(value) not in known:
        if isinstance(value, dict):
            known[id(value)] = {key: _unwrap(item, known) for key, item in value.items()}
        else:
            known[id(value)] = type(value)(_unwrap(item, known) for item in value)
    return known[id(value)]


def _dtype_of(value: Any) -> np.dtype:
    if not isinstance(value, _Dtype):
        raise RefusedError(f"an array with the dtype {reprlib.repr(value)}")
    return value.value


def _to_bytes(raw: Any) -> bytes:
    """Converts the text that Python 2 stores for bytes."""
    if isinstance(raw, str):
        return raw.encode("latin1")
    if not isinstance(raw, (bytes, bytearray)):
        raise RefusedError(f"an array whose numbers are a {type(raw).__name__}")
    return bytes(raw)
