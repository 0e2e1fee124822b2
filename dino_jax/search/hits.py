"""Answers of an index, as people and programs take them."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dino_jax.data.decode import UnreadableImageError
from dino_jax.foreign.names import one_line
from dino_jax.search.engine import Found
from dino_jax.search.index import Index
from dino_jax.search.metadata import Value
from dino_jax.search.photos import Photos
from dino_jax.visualize.pictures import PHOTOGRAPH, caption, pad_below, photograph, tile_rows

PER_LINE = 5  # pictures of a contact sheet
SHOWN_COLUMNS, WIDEST = 4, 40  # of a table: columns, and characters of a cell


class Hit(NamedTuple):
    """A photograph that was found.

    Attributes:
      rank: 1 is the nearest.
      row: its number in the index.
      name: its name.
      score: cosine with the query.
      values: its metadata.
      group: value of the column that hits are grouped by, None without one.
    """

    rank: int
    row: int
    name: str
    score: float
    values: dict[str, Value]
    group: Value = None


class Answer(NamedTuple):
    """The hits of a query.

    Attributes:
      hits: the best first.
      proven: whether no other photograph is nearer.
      searched: number of photographs that could have been found.
      recall: 1 if proven, else the share of the nearest that was found in a measurement.
    """

    hits: list[Hit]
    proven: bool
    searched: int
    recall: float = 1.0


def find_hits(
    index: Index,
    vector: np.ndarray,
    k: int,
    allowed: np.ndarray | None = None,
    group: str = "",
) -> Answer:
    """The k nearest photographs; with a group, the nearest one of each of its values.

    Photographs without a value in the column are groups of their own.

    Args:
      index: an open index.
      vector: [d] of any scale.
      k: number of hits, or of groups.
      allowed: mask of `Index.allowed`; None: all.
      group: name of a column; "": none.

    Raises:
      ValueError: as `Index.search` and `Index.column`.
    """
    mask = index.live if allowed is None else allowed
    searched = int(mask.sum())
    if not group:
        found = index.search(vector, k, mask)
        return Answer(
            _hits(index, found, range(len(found.rows))), found.proven, searched, found.recall
        )
    values = index.column(group)
    wanted = k
    while True:  # the nearest 2 k begin with the nearest k: hits come in the same order
        found = index.search(vector, wanted, mask)
        kept = _first_of_groups(values, found.rows)[:k]
        if len(kept) == k or len(found.rows) < wanted:
            hits = _hits(index, found, kept)
            named = [hit._replace(group=values[hit.row]) for hit in hits]
            return Answer(named, found.proven, searched, found.recall)
        wanted *= 2


def _first_of_groups(values: Sequence[Value], rows: np.ndarray) -> list[int]:
    seen, kept = set(), []
    for place, row in enumerate(rows.tolist()):
        value = values[row]
        if value is None or value == "" or value not in seen:
            kept.append(place)
            seen.add(value)
    return kept


def _hits(index: Index, found: Found, places: Iterable[int]) -> list[Hit]:
    hits = []
    for rank, place in enumerate(places, start=1):
        row = int(found.rows[place])
        name, score = index.row(row).name, float(found.scores[place])
        hits.append(Hit(rank, row, name, score, index.values(row)))
    return hits


def to_lines(answer: Answer) -> str:
    """One JSON object per hit."""
    how = {"proven": answer.proven, "recall": answer.recall}
    lines = ({**hit._asdict(), **how} for hit in answer.hits)
    return "".join(json.dumps(line) + "\n" for line in lines)


SAME_FILE = (
    "1.00 is the same file, another photo of the same thing is lower, how much depends on the model"
)


def to_table(answer: Answer, meaning: str = "") -> str:
    """The hits as a table, and what the scores mean, if they are no cosines of photographs."""
    if not answer.hits:
        return f"no photo found; {answer.searched:,} pass the filters"
    names = dict.fromkeys(name for hit in answer.hits for name in hit.values)
    columns = list(names)[:SHOWN_COLUMNS]
    head = ["rank", "score" if meaning else "cosine", "photo", *columns]
    cells = [
        [str(hit.rank), f"{hit.score:.4f}", hit.name, *(hit.values.get(x) for x in columns)]
        for hit in answer.hits
    ]
    text = [[_cell(x) for x in line] for line in [head, *cells]]
    widths = [max(len(line[place]) for line in text) for place in range(len(head))]
    lines = [
        "  ".join(x.ljust(width) for x, width in zip(line, widths, strict=True)).rstrip()
        for line in text
    ]
    proof = "exact, proven" if answer.proven else f"approximate, recall {answer.recall:.4f}"
    return "\n".join(
        [
            *lines,
            f"{proof}, over {answer.searched:,} photos; {meaning or SAME_FILE}",
        ]
    )


def _cell(value: Any) -> str:
    text = one_line("" if value is None else str(value))
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def draw_sheet(
    queries: Sequence[tuple[str, np.ndarray]], answer: Answer, photos: Photos
) -> np.ndarray:
    """A contact sheet: the photographs of the query above, the hits below.

    Args:
      queries: captions and pixels [H, W, 3] uint8.
      answer: the hits.
      photos: where their files are.

    Returns:
      [H', W', 3] uint8.
    """
    above = [captioned(pixels, text) for text, pixels in queries]
    below = [
        captioned(read_or_gray(photos, hit.name), f"{hit.rank}  {hit.score:.3f}  {hit.name}")
        for hit in answer.hits
    ]
    return tile_rows([*lines_of(above), *lines_of(below)])


def captioned(pixels: np.ndarray, text: str) -> np.ndarray:
    """A photograph to look at, with a line of text."""
    return caption(photograph(pixels), one_line(text))


def lines_of(pictures: Sequence[np.ndarray], count: int = PER_LINE) -> list[list[np.ndarray]]:
    """Pictures in lines of `count`, those of a line equally high."""
    lines = [list(pictures[start : start + count]) for start in range(0, len(pictures), count)]
    return [[pad_below(one, max(x.shape[0] for x in line)) for one in line] for line in lines]


def read_or_gray(photos: Photos, name: str, read: Callable | None = None) -> np.ndarray:
    """The pixels of a photograph; a gray square for one that is not there any more."""
    try:
        return (read or photos.read)(name)
    except UnreadableImageError:
        return np.full((PHOTOGRAPH, PHOTOGRAPH, 3), 96, np.uint8)
