"""Which photographs show the same product: SKUs of a column, or pairs of names."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dino_jax.foreign.files import MAX_TEXT_BYTES, read_text
from dino_jax.foreign.names import printable

NONE = -1  # in place of a number, for a photograph without a SKU


class Skus(NamedTuple):
    """SKUs of photographs.

    Attributes:
      of: [N] int64, the number of each photograph's SKU, `NONE` without one.
      names: name of every SKU, by number.
    """

    of: np.ndarray
    names: list[str]

    def photos(self) -> list[np.ndarray]:
        """The photographs of every SKU, ascending."""
        order = np.argsort(self.of, kind="stable")
        order = order[self.of[order] != NONE]
        return np.split(order, np.cumsum(np.bincount(self.of[order], minlength=len(self.names))))[
            : len(self.names)
        ]


def skus_of_values(values: Sequence[object]) -> Skus:
    """SKUs of a column: equal values are one, None and "" are none."""
    texts = ["" if value is None else str(value) for value in values]
    names = sorted(set(texts) - {""})
    number = {name: place for place, name in enumerate(names)}
    return Skus(np.array([number.get(text, NONE) for text in texts], np.int64), names)


def skus_of_pairs(pairs: np.ndarray, names: list[str]) -> Skus:
    """SKUs of pairs: photographs that pairs connect are one.

    Args:
      pairs: [m, 2] photographs.
      names: of all photographs; a SKU has that of its first one.
    """
    root = join(len(names), pairs)
    paired = np.zeros(len(names), bool)
    paired[pairs.reshape(-1)] = True
    firsts, of = np.unique(root[paired], return_inverse=True)
    found = np.full(len(names), NONE, np.int64)
    found[paired] = of
    return Skus(found, [names[first] for first in firsts])


def join(count: int, pairs: np.ndarray) -> np.ndarray:
    """[count] the smallest member of the group of each, where pairs [m, 2] connect groups."""
    root = np.arange(count)

    def find(one: int) -> int:
        while root[one] != one:
            root[one] = root[root[one]]
            one = int(root[one])
        return one

    for left, right in pairs.tolist():
        a, b = find(left), find(right)
        root[max(a, b)] = min(a, b)
    return np.array([find(one) for one in range(count)], np.int64)


def merge_skus(skus: Skus, pairs: np.ndarray) -> Skus:
    """SKUs of which some are one.

    Args:
      skus: before.
      pairs: [m, 2] numbers of SKUs that are the same.
    """
    firsts, number = np.unique(join(len(skus.names), pairs), return_inverse=True)
    of = np.where(skus.of == NONE, NONE, number[skus.of])
    return Skus(of, [skus.names[first] for first in firsts])


def shuffle_skus(skus: Skus, seed: int) -> Skus:
    """The same sizes of SKUs, dealt to photographs at random: what nothing can be learned from."""
    having = np.flatnonzero(skus.of != NONE)
    of = skus.of.copy()
    of[having] = np.random.default_rng((seed, 2)).permutation(of[having])
    return Skus(of, skus.names)


def read_pairs(path: str, places: Mapping[str, int]) -> np.ndarray:
    """Reads a CSV of two names a line; its first line may name the columns.

    Args:
      path: the file, UTF-8.
      places: numbers of photographs by name.

    Returns:
      [m, 2] int64.

    Raises:
      ValueError: if a line has not two columns, or names a photograph that is not there.
      OSError: if it cannot be read.
    """
    text = read_text(path, MAX_TEXT_BYTES).removeprefix("\ufeff")
    found: list[tuple[int, int]] = []
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for line in filter(None, reader):
            names = [printable(name.strip()) for name in line]
            if len(names) != 2:
                raise ValueError(f"{path}: line {reader.line_num} has {len(names)} columns, not 2")
            unknown = [name for name in names if name not in places]
            if len(unknown) == 2 and reader.line_num == 1:
                continue
            if unknown:
                raise ValueError(
                    f"{path}: line {reader.line_num} names {unknown[0]!r}, which is no photo of "
                    f"the source; it has {len(places):,}, such as {next(iter(places), '')!r}"
                )
            found.append((places[names[0]], places[names[1]]))
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num}: {error}") from error
    if not found:
        raise ValueError(f"{path} has no pairs")
    return np.array(found, np.int64)
