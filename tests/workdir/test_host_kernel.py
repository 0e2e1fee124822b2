"""Compiled functions are kept on disk where that is possible, and work where it is not."""

import importlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dino_jax.data import geometry, recolor
from dino_jax.workdir.host_kernel import kernel


def test_without_a_place_on_disk_a_kernel_still_works_and_says_how_to_keep_it():
    namespace = {}
    exec("def double(x):\n    return 2 * x", namespace)  # a function without a file
    with pytest.warns(UserWarning, match="set NUMBA_CACHE_DIR"):
        double = kernel(namespace["double"])
    assert double(21) == 42


def test_a_kernel_of_a_package_and_a_home_that_cannot_be_written_is_kept(tmp_path, monkeypatch):
    (tmp_path / "__pycache__").write_text("not a folder")
    (tmp_path / "home").write_text("not a folder")
    (tmp_path / "halve.py").write_text("def halve(x):\n    return x / 2\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    halve: Any = kernel(importlib.import_module("halve").halve)
    assert halve(3) == 1.5
    assert Path(halve.stats.cache_path).is_relative_to(tmp_path / f"dino_jax-{os.getuid()}/kernels")
    assert list(Path(halve.stats.cache_path).glob("halve*.nbi"))


def test_kernels_of_this_package_are_kept():
    geometry.split_columns(np.zeros((2, 2, 3), np.uint8))
    functions: Any = (geometry._fill_columns, recolor._recolor)
    for function in functions:
        assert function.stats.cache_path is not None


def test_kernels_round_as_every_cpu_does():
    """A fused multiply-add would give another result in the last bit."""

    @kernel
    def fused(a, b, c):
        return a * b + c

    a, b = np.float32(1 + 2**-12), np.float32(1 + 2**-11)
    assert fused(a, a, -b) == 0 == a * a - b
