"""Thrift's compact protocol, as far as others' files need to be understood before a library's turn.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md. Every value takes
at least one byte and every step goes forward, so time and memory are bounded by the bytes.
"""

from collections.abc import Mapping
from typing import Any

MAX_DEPTH = 32  # structs, lists and maps inside each other; a Parquet footer has seven
_TRUE, _FALSE, _BYTE, _I16, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT, _UUID = (
    *(1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13),
)
_SIZES = {_TRUE: 1, _FALSE: 1, _BYTE: 1, _DOUBLE: 8, _UUID: 16}  # bytes of an element

# Fields to keep by number: None for a number, a text or a list of them; the fields of a struct, or
# of each struct of a list.
Wanted = Mapping[int, "Wanted | None"]


def parse_struct(data: bytes, wanted: Wanted) -> dict[int, Any]:
    """Reads the struct that begins at the first byte, and skips what is not wanted.

    Returns:
      Values by number of the field: int, bytes, a list, or a dict for a struct. A field that is not
      in the data is missing.

    Raises:
      ValueError: if the data is no such struct, or a wanted struct is something else.
    """
    reader = _Reader(data)
    try:
        return reader.struct(wanted, 0)
    except IndexError as error:
        raise ValueError("it ends too early") from error


class _Reader:
    """A place in the data, which only moves forward."""

    def __init__(self, data: bytes):
        self._data, self._place = data, 0

    def struct(self, wanted: Wanted, depth: int) -> dict[int, Any]:
        _require_depth(depth)
        found: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            step, kind = head >> 4, head & 15
            number = number + step if step else self._signed()
            if number not in wanted:
                self._skip(kind, depth, in_list=False)
            elif (fields := wanted[number]) is None:
                found[number] = self._plain(kind)
            elif kind == _STRUCT:
                found[number] = self.struct(fields, depth + 1)
            elif kind in (_LIST, _SET):
                found[number] = self._structs(fields, depth + 1)
            else:
                raise ValueError(
                    f"field {number} has the type {kind}, which is not that of structs"
                )
        return found

    def _structs(self, fields: Wanted, depth: int) -> list[dict[int, Any]]:
        size, kind = self._list_head()
        if size and kind != _STRUCT:
            raise ValueError(f"a list of the type {kind} where structs belong")
        return [self.struct(fields, depth + 1) for _ in range(size)]

    def _plain(self, kind: int) -> Any:
        """A number, bytes, or a list of them."""
        if kind not in (_LIST, _SET):
            return self._value(kind)
        size, kind = self._list_head()
        return [self._value(kind) for _ in range(size)]

    def _value(self, kind: int) -> int | bytes:
        if _I16 <= kind <= _I64:
            return self._signed()
        if kind == _BINARY:
            start = self._forward(self._varint())
            return self._data[start : self._place]
        raise ValueError(f"a value of the type {kind} where numbers or texts belong")

    def _skip(self, kind: int, depth: int, in_list: bool) -> None:
        if _I16 <= kind <= _I64:
            self._varint()
        elif kind == _BINARY:
            self._forward(self._varint())
        elif kind == _STRUCT:
            self.struct({}, depth + 1)
        elif kind in (_LIST, _SET):
            size, kind = self._list_head()
            self._skip_many((kind,), size, depth + 1)
        elif kind == _MAP:
            if size := self._size():
                kinds = self._byte()
                self._skip_many((kinds >> 4, kinds & 15), size, depth + 1)
        elif kind in _SIZES:  # a field that is true or false says so in its head
            self._forward(_SIZES[kind] if in_list or kind > _FALSE else 0)
        else:
            raise ValueError(f"unknown type {kind}")

    def _skip_many(self, kinds: tuple[int, ...], size: int, depth: int) -> None:
        _require_depth(depth)
        for _ in range(size):
            for kind in kinds:
                self._skip(kind, depth, in_list=True)

    def _list_head(self) -> tuple[int, int]:
        head = self._byte()
        size = head >> 4
        return (self._size() if size == 15 else size), head & 15

    def _size(self) -> int:
        size = self._varint()
        if size > len(self._data) - self._place:
            raise ValueError(f"a list of {size:,} values in fewer bytes")
        return size

    def _signed(self) -> int:
        number = self._varint()
        return (number >> 1) ^ -(number & 1)

    def _varint(self) -> int:
        number = self._byte()
        if number < 128:
            return number
        number &= 127
        for shift in range(7, 70, 7):
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
        raise ValueError("a number of more than 64 bits")

    def _byte(self) -> int:
        byte = self._data[self._place]
        self._place += 1
        return byte

    def _forward(self, size: int) -> int:
        """Goes on; returns the place before."""
        start = self._place
        if size > len(self._data) - start:
            raise IndexError
        self._place = start + size
        return start


def _require_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
