"""Files with vectors and the names of their images.

npy      embeddings-00000-of-00002.npy   [n, d]
         images-00000-of-00002.jsonl     one line per row: {"name": "cat/1.jpg", "label": "cat"}
parquet  embeddings-00000-of-00002.parquet   columns name, label, embedding (list of d numbers)

Names are written as `foreign.names.printable` does: odd bytes and line breaks become escapes.
unreadable-00000-of-00002.txt names the images of a shard that have no row, one a line, if there are
any. The file with the vectors is written last: a shard is complete, or will be made again.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from dino_jax.data.building.output_folder import write_text
from dino_jax.foreign.files import open_regular, read_text
from dino_jax.foreign.json_text import parse_json
from dino_jax.workdir.paths import written_whole


class Rows(NamedTuple):
    """The content of a shard.

    Attributes:
      vectors: [n, d].
      names: n names of images, inside their source.
      labels: n class names, None for none.
      unreadable: names of images without a row.
    """

    vectors: np.ndarray
    names: list[str]
    labels: list[str | None]
    unreadable: list[str]


class Shards:
    """The shards of one folder.

    Attributes:
      count: number of shards when finished.
    """

    def __init__(self, out: str, count: int, file_format: str):
        """Describes `count` shards in the folder `out`, local or gs://."""
        self._out, self.count, self._format = out, count, file_format

    def is_written(self, shard: int) -> bool:
        return epath.Path(self._path("embeddings", shard, self._format)).exists()

    def write(self, shard: int, rows: Rows) -> None:
        """Writes all files of a shard."""
        if rows.unreadable:
            text = "".join(f"{name}\n" for name in rows.unreadable)
            write_text(self._path("unreadable", shard, "txt"), text)
        {"npy": self._write_npy, "parquet": self._write_parquet}[self._format](shard, rows)

    def count_rows(self) -> tuple[int, int]:
        """Rows, and unreadable images, of all shards."""
        return (
            sum(self.count_rows_of(shard) for shard in range(self.count)),
            sum(self._count_unreadable(shard) for shard in range(self.count)),
        )

    def read(self, shard: int) -> Rows:
        """Reads a shard; without the names of unreadable images.

        Raises:
          ValueError: if it is damaged; names the file.
          OSError: if it is not there.
        """
        path = self._path("embeddings", shard, self._format)
        try:
            rows = {"npy": self._read_npy, "parquet": self._read_parquet}[self._format](shard)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # NumPy's and pyarrow's readers raise many kinds
            raise ValueError(f"{path} can't be read: {error}") from error
        if rows.vectors.ndim != 2 or len(rows.vectors) != len(rows.names):
            raise ValueError(
                f"{path} can't be read: vectors {rows.vectors.shape}, {len(rows.names)} names"
            )
        return rows

    def read_vectors(self, shard: int) -> np.ndarray:
        """[n, d] vectors of a shard without their names; raises as `read`."""
        if self._format == "parquet":
            return self.read(shard).vectors
        path = self._path("embeddings", shard, "npy")
        try:
            with open_regular(path) as file:
                vectors = np.load(file, allow_pickle=False)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # NumPy's reader raises many kinds
            raise ValueError(f"{path} can't be read: {error}") from error
        if vectors.ndim != 2:
            raise ValueError(f"{path} can't be read: vectors {vectors.shape}")
        return vectors

    def read_unreadable(self, shard: int) -> list[str]:
        """Locations of the images of a shard that have no row, in their order."""
        path = self._path("unreadable", shard, "txt")
        return read_text(path).split("\n")[:-1] if epath.Path(path).exists() else []

    def vectors_path(self, shard: int) -> str:
        """The file with the vectors of a shard."""
        return self._path("embeddings", shard, self._format)

    def _read_npy(self, shard: int) -> Rows:
        text = read_text(self._path("images", shard, "jsonl"))
        lines = [parse_json(line) for line in text.splitlines()]
        with open_regular(self._path("embeddings", shard, "npy")) as file:
            vectors = np.load(file, allow_pickle=False)
        names, labels = ([line[column] for line in lines] for column in ("name", "label"))
        return Rows(vectors, names, labels, [])

    def _read_parquet(self, shard: int) -> Rows:
        _, parquet = import_pyarrow()
        with open_regular(self._path("embeddings", shard, "parquet")) as file:
            table = parquet.read_table(file)
        flat = table.column("embedding").combine_chunks().flatten().to_numpy()
        names, labels = (table.column(name).to_pylist() for name in ("name", "label"))
        vectors = flat.reshape(len(names), -1) if names else np.zeros((0, 0), np.float32)
        return Rows(vectors, names, labels, [])

    def _write_npy(self, shard: int, rows: Rows) -> None:
        pairs = zip(rows.names, rows.labels, strict=True)
        lines = [json.dumps({"name": name, "label": label}) for name, label in pairs]
        write_text(self._path("images", shard, "jsonl"), "".join(f"{line}\n" for line in lines))
        with (
            written_whole(self._path("embeddings", shard, "npy")) as path,
            Path(path).open("wb") as file,
        ):
            np.save(file, rows.vectors)

    def _write_parquet(self, shard: int, rows: Rows) -> None:
        arrow, parquet = import_pyarrow()
        flat = arrow.array(rows.vectors.reshape(-1))
        vectors = arrow.FixedSizeListArray.from_arrays(flat, rows.vectors.shape[1])
        table = arrow.table(
            {
                "name": arrow.array(rows.names, arrow.string()),
                "label": arrow.array(rows.labels, arrow.string()),
                "embedding": vectors,
            }
        )
        with written_whole(self._path("embeddings", shard, "parquet")) as path:
            parquet.write_table(table, path)

    def count_rows_of(self, shard: int) -> int:
        """Rows of a shard; reads no vector."""
        if self._format == "parquet":
            _, parquet = import_pyarrow()
            with epath.Path(self._path("embeddings", shard, "parquet")).open("rb") as file:
                return parquet.ParquetFile(file).metadata.num_rows
        return len(epath.Path(self._path("images", shard, "jsonl")).read_bytes().splitlines())

    def _count_unreadable(self, shard: int) -> int:
        path = epath.Path(self._path("unreadable", shard, "txt"))
        return len(path.read_bytes().splitlines()) if path.exists() else 0

    def _path(self, kind: str, shard: int, suffix: str) -> str:
        return f"{self._out}/{kind}-{shard:05d}-of-{self.count:05d}.{suffix}"


def import_pyarrow() -> tuple[Any, Any]:
    """Imports the packages of the extra `parquet`.

    Raises:
      ValueError: if they are not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(
            f"--format=parquet needs pyarrow ({error}): pip install 'dino_jax[parquet]'"
        ) from error
    return pyarrow, parquet
