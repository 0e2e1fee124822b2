"""Shards of `dino-jax build`: the fastest source, one read per image."""

from typing import Any

from dino_jax.data.sources.base import Blocks, Contents, PackedNames, Record
from dino_jax.data.sources.patterns import is_pattern
from dino_jax.data.sources.record_format import SHARD_SUFFIX, decode_record, read_description
from dino_jax.data.sources.storage import (
    MAX_OPEN_FILES,
    HandleCache,
    file_sizes,
    find_shards,
)
from dino_jax.foreign.files import require_regular
from dino_jax.foreign.names import printable

_READ_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"  # array_record's advice: random access
_READ_BUFFER_BYTES = 32 * 1024


class ArrayRecordSource:
    """Images in ArrayRecord shards, with the labels, class names and file names they came with."""

    def __init__(self, path: str):
        """Reads the description beside the shards, and no shard.

        Args:
          path: folder that build has written, one shard or a glob pattern of shards; local or
            gs:// (array_record reads gs:// itself).

        Raises:
          ImportError: if array_record is not installed.
          FileNotFoundError: if there are no shards or no description.
          ValueError: if shards are missing or belong to another build.
        """
        try:
            import array_record.python.array_record_module  # noqa: F401
        except ImportError as error:
            raise ImportError(
                "the arrayrecord source needs array_record: pip install array_record"
            ) from error
        self._shards = find_shards(path, SHARD_SUFFIX)
        folder = self._shards[0].rpartition("/")[0] or "."
        description = read_description(folder)
        names = [shard.rpartition("/")[2] for shard in self._shards]
        unknown = sorted(set(names) - set(description.shards))
        missing = sorted(set(description.shards) - set(names))
        whole_folder = not (is_pattern(path) or path.endswith(SHARD_SUFFIX))
        if unknown or (missing and whole_folder):
            raise ValueError(
                f"the shards in {folder} are not those of its description: missing "
                f"{missing[:5]}, unknown {unknown[:5]}; copy the whole folder, or build it again"
            )
        self._description = description
        self._blocks = Blocks([description.shards[name] for name in names])
        self.class_names = description.class_names
        self._readers = HandleCache(_open_reader, MAX_OPEN_FILES)

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, index: int) -> Record:
        shard, place = self._blocks.locate(index)
        try:
            record = decode_record(self._readers[self._shards[shard]].read([place])[0])
        except (RuntimeError, ValueError, IndexError) as error:  # array_record's and msgpack's
            raise OSError(f"the record can't be read: {error}") from error
        if record["label"] >= len(self.class_names):
            raise OSError(f"label {record['label']} is none of {len(self.class_names)} classes")
        return record

    def name(self, index: int) -> str:
        """The shard and the record in it."""
        shard, place = self._blocks.locate(index)
        return printable(f"{self._shards[shard]}[{place}]")

    def contents(self) -> Contents:
        """Shards, their records, class names, and the mean and deviation of all pixels."""
        counts = [self._blocks.size(shard) for shard in range(len(self._shards))]
        names = PackedNames([shard.rpartition("/")[2] for shard in self._shards])
        about = (self._description.mean, self._description.std, file_sizes(self._shards))
        return Contents(len(self), names, (counts, self.class_names, about))


def _open_reader(shard: str) -> Any:
    from array_record.python.array_record_module import ArrayRecordReader

    require_regular(shard)
    reader = ArrayRecordReader(
        shard, options=_READ_OPTIONS, file_reader_buffer_size=_READ_BUFFER_BYTES
    )
    if not reader.ok():
        raise OSError(f"{shard} is not an ArrayRecord file, or is damaged, or can't be opened")
    return reader
