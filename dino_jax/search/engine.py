"""Exact search over the parts of an index: one query at a time, or many on the devices of JAX."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dino_jax.search.codes import Codes, encode, lengths_of, unit_query
from dino_jax.search.scan import scan

BLOCK = 1 << 18  # rows that are on the devices at once
MORE = 32  # rows beyond k that float32 or float16 may have put at a wrong place
Nearest = Callable[[np.ndarray, int, np.ndarray], np.ndarray]


class Part(NamedTuple):
    """Some rows of an index, with consecutive numbers.

    Attributes:
      vectors: [n, d] float16 of length 1.
      codes: their codes.
    """

    vectors: np.ndarray
    codes: Codes


class Found(NamedTuple):
    """The nearest rows of a query, the nearest first, of equal ones the smaller number.

    Attributes:
      rows: [m] int64 numbers over all parts; m is k, or the number of rows allowed if that is less.
      scores: [m] float64 cosines, see `score`.
      proven: whether these are certainly the nearest of all.
      compared: number of rows whose scores were computed.
      recall: 1 if proven, else the share of the nearest that was found in a measurement.
    """

    rows: np.ndarray
    scores: np.ndarray
    proven: bool
    compared: int
    recall: float = 1.0


def everything(parts: Sequence[Part]) -> list[np.ndarray]:
    """A mask that allows all rows."""
    return [np.ones(len(part.vectors), np.uint8) for part in parts]


def search(
    parts: Sequence[Part],
    vector: np.ndarray,
    k: int,
    allowed: Sequence[np.ndarray] | None = None,
) -> Found:
    """The k rows with the largest cosine with a query, exactly.

    Args:
      parts: parts of an index.
      vector: [d] of any scale.
      k: number of rows, at least 1.
      allowed: [n] uint8 for every part, 0 for rows that must not be found; None: all may be.

    Raises:
      ValueError: if k is not positive, or the query has another width or no direction.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    masks = everything(parts) if allowed is None else allowed
    query = _check(parts, vector)
    codes = encode_query(query)
    best = np.full(min(k, max(1, sum(len(part.vectors) for part in parts))), -np.inf)
    found, start = [], 0
    for part, mask in zip(parts, masks, strict=True):
        rows, uppers = np.empty(len(mask), np.int64), np.empty(len(mask))
        count = scan(*part.codes, mask, *codes, best, rows, uppers)
        found.append((start, part, rows[:count], uppers[:count]))
        start += len(mask)
    # The heap has only grown: what is below its smallest entry now is certainly too far away.
    near = [(first, part, rows[uppers >= best[0]]) for first, part, rows, uppers in found]
    numbers = [first + rows for first, _, rows in near]
    scores = [score(part.vectors[rows], query) for _, part, rows in near]
    return _largest(_joined(numbers, np.int64), _joined(scores, np.float64), k)


def search_many(
    parts: Sequence[Part],
    vectors: np.ndarray,
    k: int,
    allowed: Sequence[np.ndarray] | None = None,
) -> list[Found]:
    """As `search` for each of many queries, with the matrix products on all devices of JAX.

    Float32 finds `MORE` rows than wanted, float64 ranks them. A row outside is further away than
    the last one of them; where the rounding of float32 leaves a doubt, the query is searched alone.

    Args:
      parts: parts of an index.
      vectors: [M, d] of any scale.
      k: number of rows, at least 1.
      allowed: as in `search`.
    """
    from dino_jax.evaluation.search import find_nearest, local_mesh  # jax, not for one query

    masks = everything(parts) if allowed is None else allowed
    queries = np.stack([_check(parts, vector) for vector in vectors])
    candidates: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in queries]
    limits, start, mesh = np.full(len(queries), -np.inf), 0, local_mesh()
    for part, mask in zip(parts, masks, strict=True):
        kept = np.flatnonzero(mask)
        for block in np.split(kept, range(BLOCK, len(kept), BLOCK)) if len(kept) else ():
            stored = part.vectors[block]
            rows = (stored / lengths_of(stored)[:, None]).astype(np.float32)
            nearest = find_nearest(rows, queries, min(k + MORE, len(block)), mesh)
            if nearest.indices.shape[1] < len(block):
                limits = np.maximum(limits, nearest.similarities[:, -1])
            for place, indices in enumerate(nearest.indices):
                found = block[indices]
                scores = score(part.vectors[found], queries[place])
                candidates[place].append((start + found, scores))
        start += len(mask)
    # Of a sum of d products of float32 numbers whose lengths are about 1.
    doubt = (queries.shape[1] + 2) * 2.0**-23
    answers = []
    for vector, pairs, limit in zip(vectors, candidates, limits, strict=True):
        numbers = [rows for rows, _ in pairs]
        scores = [values for _, values in pairs]
        answer = _largest(_joined(numbers, np.int64), _joined(scores, np.float64), k)
        sure = limit == -np.inf or (len(answer.rows) == k and answer.scores[-1] > limit + doubt)
        answers.append(answer if sure else search(parts, vector, k, masks))
    return answers


def encode_query(query: np.ndarray) -> tuple[np.ndarray, float, float, float]:
    """Codes [d] int8, scale, length and lost length of a query, as `scan` takes them."""
    codes = encode(query[None])
    exact = query.astype(np.float64)
    scale = float(codes.scales[0])
    return codes.codes[0], scale, float(np.linalg.norm(exact)), float(codes.errors[0])


def score(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    """[m] float64 cosines of [m, d] float16 rows with a query of `unit_query`.

    The inner product is exact, the length is the rounded root of an exact sum: they are the same
    numbers on every machine, and equal rows have equal scores.
    """
    return vectors.astype(np.float64) @ query.astype(np.float64) / lengths_of(vectors)


def search_lists(
    lists: Nearest,
    covered: int,
    parts: Sequence[Part],
    vector: np.ndarray,
    k: int,
    allowed: Sequence[np.ndarray],
    recall: float,
) -> Found:
    """As `search`, but rows up to `covered`, the end of a part, only as far as lists find them.

    Args:
      lists: gives numbers of rows, see `lists.Lists.nearest`.
      covered: number of rows that they hold.
      parts, vector, k, allowed: as in `search`.
      recall: what is known of the lists.
    """
    query, start, old = _check(parts, vector), 0, 0
    while start < covered:
        start, old = start + len(parts[old].vectors), old + 1
    mask = np.concatenate(allowed[:old])
    rows = lists(query, k + MORE, mask)
    ends = np.cumsum([len(part.vectors) for part in parts[:old]])
    of = np.searchsorted(ends, rows, side="right")
    numbers, scores = [], []
    for place in np.unique(of):
        inside = rows[of == place]
        first = ends[place] - len(parts[place].vectors)
        numbers.append(inside)
        scores.append(score(parts[place].vectors[inside - first], query))
    if parts[old:]:
        later = search(parts[old:], vector, k, allowed[old:])
        numbers.append(later.rows + covered)
        scores.append(later.scores)
    found = _largest(_joined(numbers, np.int64), _joined(scores, np.float64), k)
    return found._replace(proven=False, recall=recall)


def _check(parts: Sequence[Part], vector: np.ndarray) -> np.ndarray:
    widths = {part.vectors.shape[1] for part in parts}
    if widths - {len(vector)}:
        raise ValueError(f"the query has {len(vector)} numbers, rows have {sorted(widths)}")
    return unit_query(vector)


def _largest(rows: np.ndarray, scores: np.ndarray, k: int) -> Found:
    order = np.lexsort((rows, -scores))[:k]
    return Found(rows[order], scores[order], True, len(rows))


def _joined(arrays: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype)
