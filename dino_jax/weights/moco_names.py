"""Heads in the official checkpoints of MoCo v3: the projector is the encoder's last layer."""

from collections.abc import Mapping
from typing import Any

import numpy as np

PREDICTOR = "predictor."  # beside the encoders, in the checkpoint of a training
_PROJECTORS = (
    "head.",
    "fc.",
)  # of ViTs, of ResNets; one layer there is a linear probe's classifier
_HEADS = {**dict.fromkeys(_PROJECTORS, "projector_head."), PREDICTOR: "predictor_head."}


def has_heads(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether a projector or predictor of MoCo v3 is among the tensors of a network."""
    return any(f"{prefix}0.weight" in tensors for prefix in _HEADS)


def from_moco(tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Gives heads names that begin with "projector_head." and "predictor_head.".

    Returns:
      The tensors, and the names of those that belong to a classifier and are left out.
    """
    renamed, left_out = {}, []
    for name, value in tensors.items():
        prefix = next((x for x in _HEADS if name.startswith(x)), "")
        if not prefix:
            renamed[name] = value
        elif f"{prefix}0.weight" in tensors:
            renamed[f"{_HEADS[prefix]}{name.removeprefix(prefix)}"] = value
        else:
            left_out.append(name)
    return renamed, sorted(left_out)


def infer_mlp_head(name: str, tensors: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    """The entry of the section `network.heads` that describes a projector or predictor.

    Args:
      name: "projector_head" or "predictor_head"; None is returned for others.
      tensors: its tensors: linear layers without bias, each perhaps before a BatchNorm and a ReLU.
    """
    if f"{name}." not in _HEADS.values():
        return None
    plain = {key.removeprefix(f"{name}."): value for key, value in tensors.items()}
    linear = sorted(int(key.split(".")[0]) for key, value in plain.items() if value.ndim == 2)
    shapes = [plain[f"{index}.weight"].shape for index in linear]
    last = linear[-1] + 1
    last_norm = "none"
    if f"{last}.running_mean" in plain:
        has_scale, has_bias = (f"{last}.{leaf}" in plain for leaf in ("weight", "bias"))
        last_norm = "affine" if has_bias else "scale" if has_scale else "plain"
    return {
        "kind": "mlp",
        "of": "cls" if name.startswith("projector") else "projector",
        "out_dim": shapes[-1][0],
        "hidden_dim": shapes[0][0],
        "layers": len(linear),
        "batch_norm": "1.running_mean" in plain if len(linear) > 1 else True,
        "last_norm": last_norm,
    }
