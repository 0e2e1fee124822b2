"""Sums of arrays: any division of an array gives the same, any damage another one."""

import ml_dtypes
import numpy as np
import pytest

from dino_jax.workdir.array_sum import MODULUS, Sum, sum_array, sum_part

RNG = np.random.default_rng(0)
DTYPES = (np.float32, np.int32, np.float64, ml_dtypes.bfloat16, np.float16, np.bool_)


def make(shape, dtype):
    return np.asarray((RNG.standard_normal(shape) * 3).astype(dtype))


def plain_sum(array):
    """The same in NumPy, word by word: MurmurHash3's finalizer of the word plus its place."""
    flat, size = array.reshape(-1), array.dtype.itemsize
    x = flat.view(np.uint32) if size >= 4 else flat.view(f"u{size}").astype(np.uint32)
    x = x + np.arange(x.size, dtype=np.uint32) * np.uint32(0x9E3779B1)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xC2B2AE35)
    x ^= x >> np.uint32(16)
    return int(x.sum(dtype=np.uint64) % MODULUS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 4), (3, 4, 5), (0, 3), (2, 1, 3, 8)])
def test_the_sum_is_that_of_the_mixed_words(shape, dtype):
    array = make(shape, dtype)
    assert sum_array(array) == Sum(plain_sum(array), True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_sums_of_parts_add_up_on_every_axis(axis, dtype):
    array = make((4, 3, 5), dtype)
    parts, start = np.split(array, [1], axis), [0, 0, 0]
    first = sum_part(parts[0], start, array.shape)
    start[axis] = 1
    assert first + sum_part(parts[1], start, array.shape) == sum_array(array)


def test_every_flipped_bit_changes_the_sum_and_so_do_pairs_and_swaps():
    array = make((3, 5), np.float32)
    expected, words = sum_array(array).number, array.view(np.uint32).ravel()
    sums = set()
    for word in range(words.size):
        for bit in range(32):
            words[word] ^= np.uint32(1 << bit)
            sums.add(sum_array(array).number)
            words[word] ^= np.uint32(1 << bit)
    assert expected not in sums and len(sums) == words.size * 32
    for other in range(1, words.size):  # the same bit of two words; two words swapped
        for bit in range(32):
            words[[0, other]] ^= np.uint32(1 << bit)
            assert sum_array(array).number != expected
            words[[0, other]] ^= np.uint32(1 << bit)
        words[[0, other]] = words[[other, 0]]
        assert sum_array(array).number != expected
        words[[0, other]] = words[[other, 0]]
    assert sum_array(array).number == expected


@pytest.mark.parametrize("dtype", (*DTYPES[2:5], np.float32))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_found(dtype, value):
    array = make((3, 4), dtype)
    assert sum_array(array).finite
    array[1, 2] = value
    assert not sum_array(array).finite


def test_integers_are_finite_whatever_their_bits():
    assert sum_array(np.full(3, -1, np.int32)).finite
