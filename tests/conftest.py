"""Runs every test on four CPU devices, with absl flags parsed (grain's workers read one)."""

import os

from tests import quick_compiler

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", quick_compiler.flags(devices=4))

import atexit
import shutil
import tempfile
from mmap import PAGESIZE
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

flags.FLAGS.mark_as_parsed()

if "PYTEST_XDIST_WORKER" not in os.environ:
    # Commands that the tests start share what they compile, and leave nothing in the user's folder.
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="dino_jax_tests_")
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)


MOST_MEMORY = 3 << 30  # bytes, after which programs are dropped
MEMORY = Path("/proc/self/statm")  # Linux: pages in all, pages in memory, …


@pytest.fixture(scope="module", autouse=True)
def drop_programs():
    """jax keeps every compiled program: many gigabytes at the end of the suite."""
    yield
    if MEMORY.exists() and int(MEMORY.read_text().split()[1]) * PAGESIZE > MOST_MEMORY:
        jax.clear_caches()


@pytest.fixture(scope="session")
def golden():
    """Loads a recorded output of the official code: golden("v1/dino_head") -> its arrays."""
    return lambda name: np.load(Path(__file__).parent / "golden" / f"{name}.npz")


class HttpError(Exception):
    """What gcsfs raises for an answer that has no error of Python's."""


class FakeCloud(MemoryFileSystem):
    """What lies at gs:// addresses."""

    protocol = ("gs", "gcs")
    store = {}  # noqa: RUF012, shared by all instances as a cloud is
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path):
        for scheme in ("gs://", "gcs://"):
            path = path.removeprefix(scheme)
        return "/" + path.strip("/") if path.strip("/") else ""

    def cat_file(self, path, start=None, end=None, **kwargs):
        """As gcsfs: large ranges are read in parts, and none may begin beyond the end."""
        data = super().cat_file(path, **kwargs)
        if start is not None or end is not None:
            first, last = start or 0, len(data) if end is None else end
            part = last - first if last - first < 5_000_000 else -(-(last - first) // 4)
            if any(begin >= len(data) for begin in range(first, last, part or 1)):
                raise HttpError("416: Requested Range Not Satisfiable")
        return data[start:end]


@pytest.fixture
def cloud(monkeypatch):
    """Serves gs:// addresses from memory."""
    for name in ("gs", "gcs"):
        monkeypatch.setitem(_registry, name, FakeCloud)
    yield FakeCloud()
    FakeCloud.store.clear()
