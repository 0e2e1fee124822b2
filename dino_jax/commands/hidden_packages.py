"""Imports as where a package is not installed, of packages that take it along if they find it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hidden(*names: str) -> Iterator[None]:
    """Context in which `import name` is an ImportError; what is imported already stays usable."""
    absent = [name for name in names if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # pyright: ignore[reportArgumentType] (import then finds nothing)
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
