"""The first linear map of a backbone, from images of other channels."""

from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dino_jax.weights.torch_names import Path, Variables
from dino_jax.weights.weights_file import BACKBONE

# [h, w, C, D] of a ViT, a ResNet and a ConvNeXt.
FIRST_KERNELS: tuple[Path, ...] = (
    ("params", BACKBONE, "patch_embed", "kernel"),
    ("params", BACKBONE, "conv1", "kernel"),
    ("params", BACKBONE, "downsample_0_0", "kernel"),
)
# The same in official files, [D, C, h, w].
FIRST_TENSORS = ("patch_embed.proj.weight", "conv1.weight", "downsample_layers.0.0.weight")


def find_first_kernel(flat: dict[Path, Any]) -> Path | None:
    """Path of the first kernel among flat variables; None for a backbone of another kind."""
    return next((path for path in FIRST_KERNELS if path in flat), None)


def choose_channels(rule: str, theirs: int, ours: int) -> np.ndarray:
    """How the kernel of each of our channels is made of theirs.

    Args:
      rule: "mean" of all of theirs, "repeat" of theirs in their order, both times theirs / ours, so
        that gray images give what they gave; or the number of one of theirs for each of ours, as
        "0,1,2,2", whose kernels are taken as they are.
      theirs: channels of the weights.
      ours: channels of the network.

    Returns:
      [ours, theirs] float32 factors.

    Raises:
      ValueError: if the rule is none of these.
    """
    if rule == "mean":
        return np.full((ours, theirs), 1 / ours, np.float32)
    if rule == "repeat":
        return np.eye(theirs, dtype=np.float32)[np.arange(ours) % theirs] * (theirs / ours)
    numbers = [int(part) if part.strip().isdecimal() else theirs for part in rule.split(",")]
    if len(numbers) != ours or max(numbers) >= theirs:
        raise ValueError(
            f"config.init_from.channels is {rule!r}: the weights are for {theirs} channels, the "
            f"network takes {ours}; expected mean, repeat, or {ours} numbers from 0 to "
            f"{theirs - 1}, such as {','.join(str(i % theirs) for i in range(ours))}"
        )
    return np.eye(theirs, dtype=np.float32)[numbers]


def mix_channels(variables: Variables, factors: np.ndarray) -> Variables:
    """Variables whose first kernel takes other channels.

    Args:
      variables: of a backbone.
      factors: [ours, theirs], from `choose_channels`.
    """
    flat: dict[Path, Any] = flatten_dict(variables)
    path = find_first_kernel(flat)
    if path is None:
        return variables
    mixed = np.einsum("ot,hwtd->hwod", factors, np.asarray(flat[path], np.float32))
    return unflatten_dict(flat | {path: mixed})
