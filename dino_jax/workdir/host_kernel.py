"""Compiles loops over arrays of the host with numba; the result is kept on disk for every process.

Input workers import this module: it needs no jax.
"""

import warnings
from collections.abc import Callable
from typing import Any

from numba import njit
from numba.core import config

from dino_jax.workdir.paths import user_cache

# No reassociation and no fused multiply-add: every CPU computes the same bits. The three flags only
# promise that no NaN, infinity or negative zero decides anything, so that min and max vectorize.
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"nnan", "ninf", "nsz"},
}


def kernel(function: Callable) -> Callable:
    """Compiles a function for the CPU it runs on, at its first call.

    The machine code lands in NUMBA_CACHE_DIR, in `__pycache__` beside the source or in the folder
    of `user_cache`, whichever is given or can be written first; without any of them every process
    compiles again. Numba tells processors apart, so machines may share a folder. It notices a
    change of the file that holds the function, not of other files: keep the functions that a kernel
    calls, and its constants, in its own file.

    Args:
      function: function of NumPy arrays and numbers; indices must not be negative, nothing is
        checked.
    """
    try:
        return _kept(function)
    except RuntimeError as error:
        warnings.warn(
            f"the compiled kernels can't be kept ({error}), so every process compiles them "
            "for some seconds; set NUMBA_CACHE_DIR to a folder that can be written",
            stacklevel=2,
        )
        return njit(**_OPTIONS)(function)


def _kept(function: Callable) -> Callable:
    settings: Any = config
    given = settings.CACHE_DIR
    try:
        return njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # neither the package nor the home can be written
        cache = user_cache()
        if given or cache is None:
            raise
    try:
        settings.CACHE_DIR = str(cache / "kernels")
        return njit(cache=True, **_OPTIONS)(function)
    finally:
        settings.CACHE_DIR = given
