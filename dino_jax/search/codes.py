"""Vectors of length 1 as they are stored and compared, and their codes of 8 bits.

A row is stored in float16, which moves its length from 1; x is the row over its length. It has the
codes c and one scale s, so that x is about s c; ||x - s c|| is stored with it. For a query q with
the codes b and the scale t,

  |x.q - s t (c.b)| <= ||x - s c|| ||q|| + ||q - t b|| ||s c||,

so every row has a score that is certain within its own bounds. A row whose upper bound is below the
k-th largest lower bound is not among the k nearest; the others are few, and are compared in full.
"""

from typing import NamedTuple

import numpy as np

LARGEST = 127  # of a code
ROWS_AT_ONCE = 8192  # that are encoded, to bound the memory
STEP = 2.0**-24  # of the numbers of a query


class Codes(NamedTuple):
    """Rows as codes.

    Attributes:
      codes: [n, d] int8 in [-127, 127].
      scales: [n] float32, what a code of 1 stands for.
      errors: [n] float32, the distance of a row from its codes times its scale, rounded up.
    """

    codes: np.ndarray
    scales: np.ndarray
    errors: np.ndarray


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows as they are stored: [n, d] of any scale to float16 of length 1; zeros stay zeros.

    Raises:
      ValueError: if a number is not finite; names the first row.
    """
    rows = np.asarray(vectors, np.float64)
    if not np.isfinite(rows).all():
        row = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise ValueError(f"the vector of row {row} has numbers that are not finite")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float16)


def unit_query(vector: np.ndarray) -> np.ndarray:
    """A query as it is compared: [d] of any scale to float32 of length 1, multiples of 2^-24.

    Products with float16 rows are then multiples of 2^-48, and no partial sum of them needs more
    than the 53 bits of float64: a score is the same number in whatever order it is summed.

    Raises:
      ValueError: if it is zero, or a number is not finite.
    """
    query = np.asarray(vector, np.float64)
    length = np.linalg.norm(query)
    if not np.isfinite(length) or length == 0:
        raise ValueError(f"a query needs finite numbers that are not all 0; its length is {length}")
    return (np.rint(query / length / STEP) * STEP).astype(np.float32)


def lengths_of(rows: np.ndarray) -> np.ndarray:
    """[n] float64 lengths of [n, d] float16 rows, 1 for zeros; the sums of squares are exact."""
    exact = rows.astype(np.float64)
    lengths = np.sqrt((exact * exact).sum(axis=1))
    return np.where(lengths > 0, lengths, 1)


def encode(rows: np.ndarray) -> Codes:
    """Codes of [n, d] rows, each over its length."""
    parts = [
        _encode(rows[start : start + ROWS_AT_ONCE]) for start in range(0, len(rows), ROWS_AT_ONCE)
    ]
    if not parts:
        parts = [_encode(rows)]
    return Codes(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _encode(rows: np.ndarray) -> Codes:
    exact = rows.astype(np.float64) / lengths_of(rows)[:, None]
    peaks = np.abs(exact).max(axis=1, initial=0)
    scales = (peaks / LARGEST).astype(np.float32)
    steps = np.where(scales > 0, scales, 1).astype(np.float64)[:, None]
    codes = np.clip(np.rint(exact / steps), -LARGEST, LARGEST)
    errors = np.linalg.norm(exact - scales.astype(np.float64)[:, None] * codes, axis=1)
    above = np.nextafter((errors * (1 + 1e-6)).astype(np.float32), np.float32(np.inf))
    return Codes(codes.astype(np.int8), scales, above)
