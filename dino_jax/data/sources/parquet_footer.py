"""The footer of a Parquet file: what its row groups hold, without pyarrow.

pyarrow looks at row groups and their columns in C++ functions whose exceptions nobody catches: one
damaged number there ends the whole process. It raises errors where it opens files and reads values.
"""

from typing import Any, BinaryIO, NamedTuple

from dino_jax.foreign.thrift import Wanted, parse_struct

MAX_FOOTER_BYTES = 1 << 24  # 50,000 columns of row groups and more
_END_BYTES = 8  # the length of the footer and the magic number
_MAGIC, _ENCRYPTED = b"PAR1", b"PARE"
# parquet.thrift (format 2.11): FileMetaData, RowGroup, ColumnChunk and ColumnMetaData.
_ROWS, _GROUPS = 3, 4
_CHUNKS, _ROWS_OF_GROUP = 1, 3
_CHUNK = 3
_ENCODINGS, _BYTES = 2, 6
_WANTED: Wanted = {
    _ROWS: None,
    _GROUPS: {
        _CHUNKS: {_CHUNK: {_ENCODINGS: None, _BYTES: None}},
        _ROWS_OF_GROUP: None,
    },
}
_DELTA_OF_BYTES = {6, 7}  # Encoding: DELTA_LENGTH_BYTE_ARRAY, DELTA_BYTE_ARRAY


class Chunk(NamedTuple):
    """One column of one row group.

    Attributes:
      has_deltas: whether pages may hold byte strings as differences from each other.
      bytes: size before compression, as the file says.
    """

    has_deltas: bool
    bytes: int


class RowGroup(NamedTuple):
    """Rows, and columns in the order of the schema's leaves."""

    rows: int
    chunks: tuple[Chunk, ...]


class Footer(NamedTuple):
    """All rows, and the row groups that hold them."""

    rows: int
    groups: tuple[RowGroup, ...]


def read_footer(file: BinaryIO, leaves: int) -> Footer:
    """Reads what `file` says of its row groups.

    Args:
      file: open for reading at any position.
      leaves: columns of the schema that hold values.

    Raises:
      OSError: if it can't be read.
      ValueError: if it is not a Parquet file, is damaged, encrypted or larger than what is read.
    """
    end = file.seek(0, 2)
    file.seek(max(0, end - _END_BYTES))
    last = file.read(_END_BYTES)
    if last[4:] != _MAGIC:
        raise ValueError(
            "its footer is encrypted" if last[4:] == _ENCRYPTED else "it has no footer"
        )
    size = int.from_bytes(last[:4], "little")
    if size > min(MAX_FOOTER_BYTES, end - _END_BYTES):
        raise ValueError(f"a footer of {size:,} bytes; at most {MAX_FOOTER_BYTES:,} are read")
    file.seek(end - _END_BYTES - size)
    content = parse_struct(file.read(size), _WANTED)
    groups = tuple(_row_group(found, leaves) for found in content.get(_GROUPS, []))
    return Footer(_number(content.get(_ROWS), "number of rows"), groups)


def _row_group(found: dict[int, Any], leaves: int) -> RowGroup:
    chunks = [_chunk(chunk.get(_CHUNK)) for chunk in _structs(found.get(_CHUNKS))]
    if len(chunks) != leaves:
        raise ValueError(f"a row group of {len(chunks)} columns in a schema of {leaves}")
    return RowGroup(_number(found.get(_ROWS_OF_GROUP), "number of rows"), tuple(chunks))


def _chunk(found: Any) -> Chunk:
    encodings = found.get(_ENCODINGS) if isinstance(found, dict) else None
    if not isinstance(encodings, list):
        raise ValueError("a column without encodings")
    return Chunk(not _DELTA_OF_BYTES.isdisjoint(encodings), _number(found.get(_BYTES), "size"))


def _structs(found: Any) -> list[dict[int, Any]]:
    return found if isinstance(found, list) else []


def _number(found: Any, what: str) -> int:
    if not isinstance(found, int) or not 0 <= found < 1 << 63:
        raise ValueError(f"{found!r} as a {what}")
    return found
