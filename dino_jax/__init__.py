"""DINO and DINOv2 self-supervised learning of vision features, in JAX and Flax for TPUs.

`dino_jax.load(workdir_or_file)` gives a trained model to use.
"""

from typing import Any

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    if name == "load":  # only now: input workers import this package too, and need no jax
        from dino_jax.weights.model import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
