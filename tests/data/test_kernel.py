"""Compiled functions are kept on disk where that is possible, and work where it is not."""

import numpy as np
import pytest

from dino_jax.data import geometry, recolor
from dino_jax.data.kernel import kernel


def test_without_a_place_on_disk_a_kernel_still_works_and_says_how_to_keep_it():
    namespace = {}
    exec("def double(x):\n    return 2 * x", namespace)  # a function without a file
    with pytest.warns(UserWarning, match="set NUMBA_CACHE_DIR"):
        double = kernel(namespace["double"])
    assert double(21) == 42


def test_kernels_of_this_package_are_kept():
    geometry.split_columns(np.zeros((2, 2, 3), np.uint8))
    for function in (geometry._fill_columns, recolor._recolor):
        assert function.stats.cache_path is not None


def test_kernels_round_as_every_cpu_does():
    """A fused multiply-add would give another result in the last bit."""

    @kernel
    def fused(a, b, c):
        return a * b + c

    a, b = np.float32(1 + 2**-12), np.float32(1 + 2**-11)
    assert fused(a, a, -b) == 0 == a * a - b
