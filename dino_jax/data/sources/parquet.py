"""Images in a column of Parquet files, as Hugging Face stores them; needs pyarrow."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from dino_jax.data.sources.base import (
    UNLABELED,
    Blocks,
    Contents,
    PackedNames,
    Record,
    digest_labels,
    index_labels,
)
from dino_jax.data.sources.parquet_footer import Footer, read_footer
from dino_jax.data.sources.storage import (
    HandleCache,
    file_sizes,
    find_shards,
    map_in_threads,
)
from dino_jax.foreign.files import open_regular, require_memory
from dino_jax.foreign.json_text import parse_json
from dino_jax.foreign.names import printable

MAX_ROW_GROUP_BYTES = 1 << 30
MAX_LABEL_BYTES = 1 << 30  # of the label column of one file
MAX_ROW_GROUP_ROWS = 1_000_000
_OPEN_FILES = 64  # each holds its footer
_ROW_GROUPS_KEPT = 2


class ParquetSource:
    """Rows of Parquet files; an image is bytes or a struct with "bytes" and, if any, "path".

    A row is read with its whole row group, of which the last two stay in memory: reading in order
    is fast, but a shuffled stream reads a row group (often 100 images) for each image. Build
    ArrayRecord shards from large sets: `dino-jax build`.
    """

    def __init__(self, path: str, image_column: str, label_column: str):
        """Opens the files and reads the labels.

        Args:
          path: a .parquet file, a folder of them or a glob pattern; local or gs://.
          image_column: name of the image column; "" for the only column that can hold images.
          label_column: class indices or names; "" for no labels. Hugging Face's class names are
            found in the schema.

        Raises:
          ImportError: if pyarrow is not installed.
          FileNotFoundError: if there are no files.
          ValueError: if a file is not Parquet, a column is missing or has another type, there are
            no rows, or a row group is too large for random access.
        """
        self._shards = find_shards(path, ".parquet")
        self._files = HandleCache(_open_parquet, _OPEN_FILES)
        self._row_groups = HandleCache(self._read_row_group, _ROW_GROUPS_KEPT)
        schema = self._files[self._shards[0]].file.schema_arrow
        self._image_column = image_column or _find_image_column(schema, self._shards[0])
        self._leaves = _image_leaves(schema, self._image_column, self._shards[0])
        contents = map_in_threads(
            lambda shard: _read_contents(shard, self._leaves[0], label_column), self._shards
        )
        self._groups = [
            (shard, group)
            for shard, (sizes, _) in zip(self._shards, contents, strict=True)
            for group in range(len(sizes))
        ]
        self._blocks = Blocks([size for sizes, _ in contents for size in sizes])
        if not len(self._blocks):
            raise ValueError(f"the {len(self._shards)} Parquet files at {path!r} have no rows")
        self.class_names: tuple[str, ...] = ()
        self._labels = np.full(len(self._blocks), UNLABELED, np.int32)
        if label_column:
            values = [value for _, labels in contents for value in labels]
            self.class_names, self._labels = index_labels(values)
        if self.class_names:
            stored = _stored_class_names(schema, label_column)
            if len(stored) > self._labels.max():
                self.class_names = stored

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, index: int) -> Record:
        block, row = self._blocks.locate(index)
        images = self._row_groups[self._groups[block]].column(0)
        with _damage(OSError, "the row can't be read"):
            stored = images[row]
            parts = dict(stored) if hasattr(stored, "keys") else {"bytes": stored}
            image, name = parts["bytes"].as_py(), _text(parts.get("path"))
        if image is None:
            raise OSError("the row holds no image bytes")
        return {"image": image, "label": int(self._labels[index]), "name": name or str(index)}

    def name(self, index: int) -> str:
        """The file, the row group and the row in it."""
        block, row = self._blocks.locate(index)
        shard, group = self._groups[block]
        return printable(f"{shard}[row group {group}, row {row}]")

    def contents(self) -> Contents:
        """Files, their sizes, the rows of their row groups, and labels."""
        rows = [self._blocks.size(group) for group in range(len(self._groups))]
        names = PackedNames([shard.rpartition("/")[2] for shard in self._shards])
        labels = digest_labels(self.class_names, self._labels)
        return Contents(len(self), names, (rows, file_sizes(self._shards), labels))

    def _read_row_group(self, place: tuple[str, int]) -> Any:
        shard, group = place
        opened = self._files[shard]
        with _damage(OSError, f"row group {group} of {shard} can't be read"):
            if opened.deltas.isdisjoint(self._leaves):
                table = opened.file.read_row_group(group, columns=self._leaves, use_threads=False)
            else:
                table = _table_of(
                    _rows_one_by_one(opened, group, self._leaves, MAX_ROW_GROUP_BYTES)
                )
            table.validate()
            return table


class _Opened(NamedTuple):
    """An open file.

    Attributes:
      file: of pyarrow.
      footer: what its row groups hold.
      leaves: dotted names of the columns of values.
      deltas: those of them that may hold bytes as differences from the row before, of which a
        megabyte in the file can be gigabytes of rows.
    """

    file: Any
    footer: Footer
    leaves: tuple[str, ...]
    deltas: frozenset[str]


def _open_parquet(shard: str) -> _Opened:
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError(
            "the parquet source needs pyarrow: pip install 'dino_jax[parquet]'"
        ) from error
    file = open_regular(shard)
    with _damage(ValueError, f"{shard} is not a Parquet file, or is damaged"):
        plain = pq.ParquetFile(file, pre_buffer=False)
        _ = plain.schema_arrow  # types that Arrow lacks
        columns = [plain.schema.column(place) for place in range(len(plain.schema))]
        leaves = tuple(column.path for column in columns)
        footer = read_footer(file, len(leaves))
        has_deltas = [
            any(group.chunks[place].has_deltas for group in footer.groups)
            for place in range(len(leaves))
        ]
        deltas = frozenset(leaf for leaf, has in zip(leaves, has_deltas, strict=True) if has)
        # What many rows share stays one value: a megabyte in the file can be gigabytes of rows.
        # pyarrow can't do that with differences.
        texts = [
            column.path
            for column in columns
            if _may_be_shared(column) and column.path not in deltas
        ]
        opened = pq.ParquetFile(
            file, metadata=plain.metadata, read_dictionary=texts, pre_buffer=False
        )
    return _Opened(opened, footer, leaves, deltas)


def _rows_one_by_one(
    opened: _Opened, group: int, leaves: Sequence[str], most: int
) -> Iterator[Any]:
    """Batches of one row each of a row group; a row never has more bytes than a page of the file.

    Raises:
      ValueError: if they have more than `most` bytes together.
    """
    total = 0
    batches = opened.file.iter_batches(
        batch_size=1, row_groups=[group], columns=leaves, use_threads=False
    )
    for batch in batches:
        total += batch.nbytes
        if total > most:
            raise ValueError(f"its rows have more than {most:,} bytes; write smaller row groups")
        yield batch


def _table_of(batches: Iterable[Any]) -> Any:
    import pyarrow as pa

    return pa.Table.from_batches(list(batches))


def _may_be_shared(column: Any) -> bool:
    """Whether a leaf of Parquet's schema holds bytes or text, once in each row."""
    plain = column.logical_type.type in ("NONE", "STRING", "JSON", "ENUM", "BSON")
    return plain and column.physical_type == "BYTE_ARRAY" and column.max_repetition_level == 0


@contextmanager
def _damage(kind: type[Exception], what: str) -> Iterator[None]:
    """Turns what pyarrow raises for a damaged file, which may be anything, into one error."""
    try:
        yield
    except MemoryError as error:
        require_memory()
        raise kind(f"{what}: it asks for too much memory") from error
    except Exception as error:
        raise kind(f"{what}: {error}") from error


def _text(value: Any) -> str:
    """A text of pyarrow; "" for none, or if it isn't UTF-8."""
    try:
        text = None if value is None else value.as_py()
    except UnicodeDecodeError:
        return ""
    return text if isinstance(text, str) else ""


def _read_contents(
    shard: str, image_leaf: str, label_column: str
) -> tuple[list[int], list[int | str | None]]:
    """Rows of each row group, and the label of each row ([] without a label column)."""
    opened = _open_parquet(shard)
    sizes = _require_sizes(shard, opened, image_leaf)
    if not label_column:
        return sizes, []
    schema = opened.file.schema_arrow
    if label_column not in schema.names:
        raise ValueError(f"{shard} has no column {label_column!r}; its columns are {schema.names}")
    _require_label_type(shard, label_column, schema.field(label_column).type)
    bytes_of_labels = sum(_bytes_of(opened, label_column))
    if bytes_of_labels > MAX_LABEL_BYTES:
        raise ValueError(
            f"the column {label_column!r} of {shard} has {bytes_of_labels:,} bytes, more than the "
            f"{MAX_LABEL_BYTES:,} that are read as labels; write several files"
        )
    with _damage(ValueError, f"the column {label_column!r} of {shard} can't be read"):
        values = [value for chunk in _label_chunks(opened, label_column) for value in chunk]
    if len(values) != sum(sizes):
        raise ValueError(f"{shard} has {len(values):,} labels for {sum(sizes):,} rows")
    return sizes, values


def _label_chunks(opened: _Opened, column: str) -> Iterator[list[int | str | None]]:
    if column in opened.deltas:
        left = MAX_LABEL_BYTES
        for group in range(len(opened.footer.groups)):
            for batch in _rows_one_by_one(opened, group, [column], left):
                left -= batch.nbytes
                yield _label_values(batch.column(0))
        return
    labels = opened.file.read(columns=[column]).column(0)
    labels.validate()
    yield from map(_label_values, labels.chunks)


def _bytes_of(opened: _Opened, leaf: str) -> list[int]:
    """Bytes of a leaf in each row group, as the file says; of all leaves with this name."""
    places = [place for place, name in enumerate(opened.leaves) if name == leaf]
    return [sum(group.chunks[i].bytes for i in places) for group in opened.footer.groups]


def _label_values(chunk: Any) -> list[int | str | None]:
    """The labels of an Arrow array; rows with one text share it."""
    if not hasattr(chunk, "dictionary"):
        return chunk.to_pylist()
    texts = chunk.dictionary.to_pylist()
    texts = [None if text is None else str(text).strip() for text in texts]
    return [None if place is None else texts[place] for place in chunk.indices.to_pylist()]


def _require_label_type(shard: str, column: str, kind: Any) -> None:
    import pyarrow as pa

    if pa.types.is_nested(kind) or pa.types.is_fixed_size_binary(kind):
        raise ValueError(
            f"column {column!r} of {shard} must hold class indices or names, got {kind}"
        )


def _require_sizes(shard: str, opened: _Opened, image_leaf: str) -> list[int]:
    """Rows of each row group; all memory for labels follows from them."""
    largest = max(_bytes_of(opened, image_leaf), default=0)
    if largest > MAX_ROW_GROUP_BYTES:
        raise ValueError(
            f"{shard} has a row group of {largest:,} bytes, more than {MAX_ROW_GROUP_BYTES:,}; "
            "each image would be read with all of it. Write the file again with row_group_size=100"
        )
    sizes = [group.rows for group in opened.footer.groups]
    if max(sizes, default=0) > MAX_ROW_GROUP_ROWS:
        raise ValueError(
            f"{shard} has a row group of {max(sizes):,} rows; at most {MAX_ROW_GROUP_ROWS:,} are "
            "read. Write the file again with row_group_size=100"
        )
    if sum(sizes) != opened.footer.rows:
        raise ValueError(
            f"{shard} is damaged: its {opened.footer.rows:,} rows are {sum(sizes):,} in its row "
            "groups"
        )
    return sizes


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _holds_images(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_bytes(kind.field("bytes").type)
    return _is_bytes(kind)


def _find_image_column(schema: Any, shard: str) -> str:
    found = [column.name for column in schema if _holds_images(column.type)]
    if len(found) != 1:
        raise ValueError(
            f"{shard} has {len(found)} columns that can hold images ({found}) among "
            f"{schema.names}; name one with image_column"
        )
    return found[0]


def _image_leaves(schema: Any, column: str, shard: str) -> list[str]:
    """The parts of the image column to read, bytes first."""
    import pyarrow as pa

    if column not in schema.names:
        raise ValueError(f"{shard} has no column {column!r}; its columns are {schema.names}")
    kind = schema.field(column).type
    if not _holds_images(kind):
        raise ValueError(
            f"column {column!r} of {shard} must hold bytes or a struct with bytes, got {kind}"
        )
    if not pa.types.is_struct(kind):
        return [column]
    return [f"{column}.{part}" for part in ("bytes", "path") if kind.get_field_index(part) >= 0]


def _stored_class_names(schema: Any, label_column: str) -> tuple[str, ...]:
    """The names of a ClassLabel of Hugging Face's data sets, () if there are none."""
    stored = (schema.metadata or {}).get(b"huggingface")
    if not stored or not label_column:
        return ()
    try:
        content = parse_json(stored)
    except ValueError:
        return ()
    for key in ("info", "features", label_column, "names"):
        content = content.get(key) if isinstance(content, dict) else None
    names = content if isinstance(content, list) else []
    return tuple(name if isinstance(name, str) else str(name) for name in names)
