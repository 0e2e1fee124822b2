"""timm's names of ViTs to the official ones.

Most are the same. timm has no mask token; the position table of its models with registers has no
row for the cls token, which already holds it; the gate and the value of its SwiGLU are one "fc1".
"""

import re
from collections.abc import Mapping

import numpy as np

_PACKED = re.compile(r"(blocks\.\d+\.mlp)\.fc1\.weight")
_CLASSIFIER = ("head.weight", "head.bias")


def is_timm(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether tensors can only be timm's; its ViTs of DINO have the official names."""
    return "reg_token" in tensors or bool(_packed_blocks(tensors)) or _without_cls(tensors)


def from_timm(tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Gives tensors their official names.

    Returns:
      Tensors under official names, with a zero for the position of the cls token where timm has
      none; and the names of the tensors that belong to no backbone (a classifier).
    """
    left_out = [name for name in _CLASSIFIER if name in tensors]
    official = {name: tensor for name, tensor in tensors.items() if name not in left_out}
    for block in _packed_blocks(tensors):
        for theirs, ours in (("fc1", "w12"), ("fc2", "w3")):
            for leaf in ("weight", "bias"):
                if f"{block}.{theirs}.{leaf}" in official:
                    tensor = official.pop(f"{block}.{theirs}.{leaf}")
                    official[f"{block}.{ours}.{leaf}"] = tensor
    if "reg_token" in official:
        official["register_tokens"] = official.pop("reg_token")
    if _without_cls(tensors):
        table = official["pos_embed"]
        official["pos_embed"] = np.concatenate([np.zeros_like(table[:, :1]), table], axis=1)
    return official, left_out


def _packed_blocks(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """Blocks whose second layer takes half of the first layer's outputs."""
    matches = [match for name in tensors if (match := _PACKED.fullmatch(name))]
    return [
        match[1]
        for match in matches
        if f"{match[1]}.fc2.weight" in tensors
        and tensors[match[0]].shape[0] == 2 * tensors[f"{match[1]}.fc2.weight"].shape[1]
    ]


def _without_cls(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether the position table is a square of patches and nothing else."""
    table = tensors.get("pos_embed")
    if table is None or table.ndim != 3 or "cls_token" not in tensors:
        return False
    return int(table.shape[1] ** 0.5 + 0.5) ** 2 == table.shape[1]
