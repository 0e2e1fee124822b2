"""The main module of the input's worker processes: imports grain, but not jax.

Spawned processes import the main module of their parent before anything else, and grain imports jax
and Orbax where it finds them, for a profiler and for checkpoints of iterators. Workers need
neither; half of their CPU time at the start and of their memory would go there. Later imports find
them again: a source of the user's own may need jax.
"""

import logging

from dino_jax.commands.hidden_packages import hidden
from dino_jax.devices.host_memory import keep_freed_memory

# Bytes of freed memory that a worker keeps. Else the system clears the pages of every large image
# anew, which takes longer than decoding it; one huge image should not stay for ever.
KEPT = 256 << 20


def import_grain_alone() -> None:
    """Imports grain as where neither jax nor Orbax is installed."""
    logging.disable(logging.WARNING)  # it warns that there is no profiler
    try:
        with hidden("jax", "orbax"):
            import grain  # noqa: F401
    finally:
        logging.disable(logging.NOTSET)


if __name__ == "__mp_main__":
    keep_freed_memory(KEPT)
    import_grain_alone()
