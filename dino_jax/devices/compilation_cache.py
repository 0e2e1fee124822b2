"""Keeps compiled programs for the next start."""

import jax


def use_compilation_cache(folder: str) -> None:
    """Keeps all compiled programs in `folder`, local or gs://; "" keeps none.

    Programs that compile in less than a second (jax's own bound) are kept as well: a run has dozens
    of them, and a second start should compile nothing.
    """
    if folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
