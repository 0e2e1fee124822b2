"""A number for the content of an array that does not depend on how the array is divided.

Each 32-bit word is mixed with its place in the whole array (the finalizer of MurmurHash3), and the
results are added modulo 2^32. So the sums of the parts of an array, on any number of devices and
hosts, add up to the sum of the array; a change of one word always changes it, and any other damage
does with a probability of 1 - 2^-32. A CPU core sums about as fast as it copies.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dino_jax.workdir.host_kernel import kernel

MODULUS = 1 << 32
# Bits of the exponent by dtype: all are set in numbers that are not finite.
_EXPONENTS = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000}


class Sum(NamedTuple):
    """What is known of an array, or of a part of it.

    Attributes:
      number: in [0, MODULUS).
      finite: whether all of its numbers are.
    """

    number: int
    finite: bool

    def __add__(self, other: "Sum") -> "Sum":  # pyright: ignore[reportIncompatibleMethodOverride]
        return Sum((self.number + other.number) % MODULUS, self.finite and other.finite)


def sum_array(array: np.ndarray) -> Sum:
    """The sum of a whole array of numbers."""
    return sum_part(array, [0] * array.ndim, array.shape)


def sum_part(part: np.ndarray, start: Sequence[int], whole: Sequence[int]) -> Sum:
    """The sum of a rectangular part of an array.

    Args:
      part: numbers of 1, 2, 4 or 8 bytes each.
      start: index of the part's first element in the whole array.
      whole: shape of the whole array.
    """
    if not part.size:
        return Sum(0, True)
    strides = [np.uint64(math.prod(whole[axis + 1 :])) for axis in range(part.ndim)]
    firsts = np.full(part.shape[:-1], start[-1] if start else 0, np.uint64)  # of all rows
    for axis, size in enumerate(part.shape[:-1]):
        places = (np.arange(size, dtype=np.uint64) + np.uint64(start[axis])) * strides[axis]
        firsts += places.reshape([size] + [1] * (part.ndim - 2 - axis))
    rows = np.ascontiguousarray(part).reshape(firsts.size, -1)
    words, per_element = _as_words(rows)
    exponent = _EXPONENTS.get(part.dtype.name, 0)
    firsts = (firsts.ravel() * np.uint64(per_element)).astype(np.uint32)  # modulo 2^32
    number, largest = _sum_rows(words, firsts, np.uint32(exponent))
    finite = not exponent or bool(largest != exponent)
    if part.dtype == np.float64:
        finite = bool(np.isfinite(part).all())
    return Sum(int(number), finite)


def _as_words(rows: np.ndarray) -> tuple[np.ndarray, int]:
    """[R, C] numbers of any kind as uint32 words, and how many words one number is."""
    size = rows.dtype.itemsize
    if size < 4:
        return rows.view(f"uint{8 * size}").astype(np.uint32), 1
    return rows.view(np.uint32), size // 4


@kernel
def _sum_rows(words, places, exponent):
    """Sum of [R, C] words whose rows begin at some places, and their largest exponent."""
    total, largest = np.uint32(0), np.uint32(0)
    for row in range(words.shape[0]):
        place = places[row]
        for column in range(words.shape[1]):
            word = words[row, column]
            largest = max(largest, np.uint32(word & exponent))
            x = np.uint32(word + np.uint32(np.uint32(place + column) * np.uint32(0x9E3779B1)))
            x ^= x >> np.uint32(16)
            x = np.uint32(x * np.uint32(0x85EBCA6B))
            x ^= x >> np.uint32(13)
            x = np.uint32(x * np.uint32(0xC2B2AE35))
            x ^= x >> np.uint32(16)
            total = np.uint32(total + x)
    return total, largest
