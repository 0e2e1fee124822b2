"""The numbers that docs/explain works through, computed by the library."""

import jax.numpy as jnp
import numpy as np

from dino_jax.models.position import POSITION_KERNELS
from dino_jax.objectives.centering import center_and_sharpen, describe_targets

# Teacher logits of three images for four prototypes: all of them like the first one best.
LOGITS = np.array(
    [[2.2, 0.4, 0.0, 0.1], [2.0, 0.1, 0.5, 0.0], [2.1, 0.0, 0.1, 0.6]],
    np.float32,
)
# name: (whether the center is subtracted, temperature)
COLLAPSE_CASES = {
    "as they are": (False, 1.0),
    "sharpened only": (False, 0.04),
    "centered only": (True, 1.0),
    "both": (True, 0.04),
}
POSITIONS = np.array([0.0, 1.0, 4.0, 9.0])  # one channel of a table of four positions


def collapse_targets() -> dict[str, np.ndarray]:
    """[3, 4] targets in each case; the center is the mean of the logits."""
    center = LOGITS.mean(axis=0)
    return {
        name: np.asarray(
            center_and_sharpen(
                jnp.asarray(LOGITS), jnp.asarray(center * centered), jnp.asarray(temperature)
            )
        )
        for name, (centered, temperature) in COLLAPSE_CASES.items()
    }


def collapse_entropies() -> dict[str, tuple[float, float]]:
    """Mean entropy of a target and entropy of the mean target, in nats, in each case."""
    described = {name: describe_targets(jnp.asarray(t)) for name, t in collapse_targets().items()}
    return {
        name: (float(d["teacher_entropy"]), float(d["mean_teacher_entropy"]))
        for name, d in described.items()
    }


def resized_positions(size: int) -> dict[str, np.ndarray]:
    """[size] what each kernel makes of `POSITIONS`."""
    return {
        name: kernel(len(POSITIONS), size) @ POSITIONS for name, kernel in POSITION_KERNELS.items()
    }
