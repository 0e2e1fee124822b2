"""DINO, DINOv2 and DINOv3: self-supervised learning of vision features, in JAX and Flax for TPUs.

`dino_jax.load(workdir_or_file)` gives a trained model to use, `dino_jax.load_config(name)` the
config of an experiment.
"""

import sys
from typing import TYPE_CHECKING, Any

from dino_jax.commands import false_alarms
from dino_jax.commands.old_names import OldNames

if TYPE_CHECKING:
    from dino_jax.commands.config_file import load_config
    from dino_jax.weights.model import load

__all__ = ["load", "load_config"]
__version__ = "0.2.0"

false_alarms.hide()
sys.meta_path.insert(0, OldNames())  # pyright: ignore[reportArgumentType]


def __getattr__(name: str) -> Any:
    # Only now: input workers import this package too, and need no jax.
    if name == "load":
        from dino_jax.weights.model import load

        return load
    if name == "load_config":
        from dino_jax.commands.config_file import load_config

        return load_config
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
