"""Lists of faiss over the rows of an index: fewer rows are compared, and some answers are lost.

How many was measured when they were made, on rows of the index itself, and stands in index.json and
in every answer. Nothing uses them unless it is asked to. They hold vectors in float16 ("IVF,SQfp16"
of faiss); what they find is compared again with the vectors of the index, so that scores are those
of the exact search. Rows that were added later are searched exactly.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dino_jax.commands.progress import Progress
from dino_jax.search.codes import lengths_of
from dino_jax.search.manifest import Approximation, DamagedIndexError, sum_file

FIRST = 10  # rows of a query of which the recall is measured
MEASURED = 200  # rows that are queries then, each without itself
ROWS_PER_LIST = 39  # at least, for faiss to find the centers of its lists
TRAINED_PER_LIST = 64
ROWS_AT_ONCE = 1 << 16


def import_faiss() -> Any:
    """Imports the package of the extra `faiss`.

    Raises:
      ValueError: if it is not installed.
    """
    try:
        import faiss  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            f"approximate search needs faiss ({error}): pip install 'dino_jax[faiss]'"
        ) from error
    return faiss


class Lists:
    """Lists of faiss in memory.

    Attributes:
      probes: number of lists that a query looks into.
    """

    def __init__(self, found: Any, probes: int):
        self._found, self.probes = found, probes

    def nearest(self, query: np.ndarray, count: int, allowed: np.ndarray) -> np.ndarray:
        """Numbers of about the `count` nearest rows.

        Args:
          query: [d] of length 1.
          count: number of rows.
          allowed: [n] uint8, 0 for rows that must not be found.
        """
        faiss = import_faiss()
        bits = np.packbits(allowed, bitorder="little")
        options = faiss.SearchParametersIVF(
            sel=faiss.IDSelectorBitmap(bits), nprobe=min(self.probes, self._found.nlist)
        )
        wanted = query[None].astype(np.float32)
        _, rows = self._found.search(wanted, min(count, len(allowed)), params=options)
        return rows[0][rows[0] >= 0]

    def save(self, path: str) -> None:
        """Writes one file."""
        import_faiss().write_index(self._found, path)


def usual_lists(rows: int) -> int:
    """4 sqrt(n), as a power of two, as far as there are enough rows."""
    most = max(1, rows // ROWS_PER_LIST)
    return 1 << int(np.log2(max(1, min(4 * np.sqrt(rows), most))))


def make_lists(vectors: Any, live: np.ndarray, lists: int) -> Lists:
    """Lists of all rows; removed ones are among them, so that rows keep their numbers.

    Args:
      vectors: gives [m, d] float16 of m numbers, see `Index.vectors`.
      live: [n] uint8, 0 for removed rows, which centers are not made of.
      lists: number of lists.

    Raises:
      ValueError: if there are too few rows for so many lists.
    """
    faiss, kept = import_faiss(), np.flatnonzero(live)
    if len(kept) < ROWS_PER_LIST * lists:
        raise ValueError(
            f"--lists={lists} needs at least {ROWS_PER_LIST * lists:,} photos, the index has "
            f"{len(kept):,}; the exact search is fast for so few"
        )
    sample = np.random.default_rng(0).permutation(kept)[: TRAINED_PER_LIST * lists]
    first = _unit(vectors(np.sort(sample)))
    found = faiss.index_factory(first.shape[1], f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
    found.train(first)
    progress = Progress("list", len(live), "photos")
    for numbers in _blocks(len(live)):
        found.add(_unit(vectors(numbers)))
        progress.show(int(numbers[-1]) + 1)
    progress.close()
    return Lists(found, 1)


def _blocks(rows: int) -> Iterator[np.ndarray]:
    for start in range(0, rows, ROWS_AT_ONCE):
        yield np.arange(start, min(start + ROWS_AT_ONCE, rows))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / lengths_of(vectors)[:, None]).astype(np.float32)


def share_found(exact: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
    """The recall: the mean share of the true rows that were found."""
    pairs = [(set(a.tolist()), set(b.tolist())) for a, b in zip(exact, found, strict=True)]
    return float(np.mean([len(true & other) / len(true) for true, other in pairs if true] or [1]))


def load_lists(folder: Path, entry: Approximation) -> Lists:
    """Reads the file of an index, once it is known to be the one that was written.

    Raises:
      DamagedIndexError: if it is another one; names it.
      ValueError: if faiss is not installed or cannot read it.
    """
    faiss, path = import_faiss(), folder / entry.file.name
    if sum_file(folder, entry.file.name) != entry.file:
        raise DamagedIndexError(f"{path} is damaged: its checksum differs; make it again")
    try:
        return Lists(faiss.read_index(str(path)), entry.probes)
    except RuntimeError as error:
        raise ValueError(f"{path} can't be read by this version of faiss: {error}") from error
