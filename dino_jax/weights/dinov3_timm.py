"""timm's names of DINOv3's ViTs (its class Eva) and ConvNeXts.

timm has no mask token and no norm for local crops. Its ViTs exist without a bias of the queries and
values, and with one ("qkvb"); the keys have none.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

Tensors = dict[str, np.ndarray]

_IN_BLOCK = {"gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}
_GATED = {"mlp.fc1_g": 0, "mlp.fc1_x": 1}  # parts of w12
_CLASSIFIER = ("head.weight", "head.bias", "head.fc.weight", "head.fc.bias")
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_STAGE = re.compile(r"stages\.(\d+)\.(blocks\.(\d+)|downsample)\.(.+)")
_IN_STAGE = {"conv_dw": "dwconv", "norm": "norm", "mlp.fc1": "pwconv1", "mlp.fc2": "pwconv2"}


def is_vit(names: list[str]) -> bool:
    """Whether tensors are those of timm's DINOv3 ViT, which has no table of positions."""
    return "blocks.0.gamma_1" in names and "pos_embed" not in names and "cls_token" in names


def is_convnext(names: list[str]) -> bool:
    """Whether tensors are those of timm's ConvNeXt."""
    return "stages.0.blocks.0.conv_dw.weight" in names


def from_vit(tensors: Mapping[str, np.ndarray]) -> tuple[Tensors, list[str]]:
    """Gives the tensors of a ViT the names of DINOv2.

    Returns:
      The tensors, where the missing bias of the keys is 0, and the names of those that belong to no
      backbone (a classifier).
    """
    left_out = [name for name in _CLASSIFIER if name in tensors]
    gated = any(".mlp.fc1_g." in name for name in tensors)
    official, biases, gates = {}, {}, {}
    for name, tensor in tensors.items():
        match = _BLOCK.fullmatch(name)
        if name in left_out:
            continue
        if not match:
            official["register_tokens" if name == "reg_token" else name] = tensor
            continue
        block, rest = f"blocks.{match[1]}.", match[2]
        module, _, leaf = rest.rpartition(".")
        if rest in _IN_BLOCK:
            official[block + _IN_BLOCK[rest]] = tensor
        elif rest in ("attn.q_bias", "attn.v_bias"):
            biases.setdefault(f"{block}attn.qkv.bias", {})[rest] = tensor
        elif module in _GATED:
            gates.setdefault(f"{block}mlp.w12.{leaf}", {})[_GATED[module]] = tensor
        elif gated and module == "mlp.fc2":
            official[f"{block}mlp.w3.{leaf}"] = tensor
        else:
            official[name] = tensor
    for name, found in biases.items():
        if len(found) == 2:
            queries, values = found["attn.q_bias"], found["attn.v_bias"]
            official[name] = np.concatenate([queries, np.zeros_like(queries), values])
    for name, found in gates.items():
        official[name] = np.concatenate([found[i] for i in sorted(found)])
    return official, left_out


def to_vit(tensors: Mapping[str, np.ndarray], vit: Any) -> tuple[Tensors, list[str]]:
    """Inverse of `from_vit`.

    Args:
      tensors: tensors of a backbone, under the names of DINOv2.
      vit: our ViT.

    Returns:
      The tensors, and the names of those for which timm has no place and which only training needs.

    Raises:
      ValueError: if timm lacks something that the features need; names all of it.
    """
    _require_parts(vit)
    left_out = [x for x in tensors if x == "mask_token" or x.startswith("local_cls_norm.")]
    scales = {ours: theirs for theirs, ours in _IN_BLOCK.items()}
    renamed = {}
    for name, tensor in tensors.items():
        match = _BLOCK.fullmatch(name)
        if name in left_out:
            continue
        if not match:
            renamed["reg_token" if name == "register_tokens" else name] = tensor
            continue
        block, rest = f"blocks.{match[1]}.", match[2]
        module, _, leaf = rest.rpartition(".")
        if rest in scales:
            renamed[block + scales[rest]] = tensor
        elif rest == "attn.qkv.bias":
            queries, _, values = np.split(tensor, 3)
            renamed |= {f"{block}attn.q_bias": queries, f"{block}attn.v_bias": values}
        elif module == "mlp.w12":
            for part, half in zip(_GATED, np.split(tensor, 2), strict=True):
                renamed[f"{block}{part}.{leaf}"] = np.ascontiguousarray(half)
        elif module == "mlp.w3":
            renamed[f"{block}mlp.fc2.{leaf}"] = tensor
        else:
            renamed[name] = tensor
    return renamed, left_out


def _require_parts(vit: Any) -> None:
    problems = []
    if vit.qkv_bias and vit.key_bias:
        problems.append("a bias of the keys")
    if vit.cls_norm:
        problems.append("a norm of its own for cls")
    if not vit.layer_scale:
        problems.append("no LayerScale")
    if vit.rope.normalize != "separate" or vit.rope.base != 100.0 or vit.rope.min_period:
        problems.append("angles other than those of the released models")
    if problems:
        raise ValueError(f"timm's ViTs of DINOv3 cannot have {', '.join(problems)}")


def from_convnext(tensors: Mapping[str, np.ndarray]) -> tuple[Tensors, list[str]]:
    """Gives the tensors of a ConvNeXt the names of DINOv3, and names what is no backbone's."""
    left_out = [name for name in _CLASSIFIER if name in tensors]
    official = {}
    for name, tensor in tensors.items():
        if name in left_out:
            continue
        match = _STAGE.fullmatch(name)
        if not match:
            plain = re.sub(r"^stem\.", "downsample_layers.0.", name)
            official[re.sub(r"^head\.norm\.", "norm.", plain)] = tensor
            continue
        stage, kind, index, rest = match.groups()
        if kind == "downsample":
            official[f"downsample_layers.{stage}.{rest}"] = tensor
            continue
        module, _, leaf = rest.rpartition(".")
        renamed = f"{_IN_STAGE[module]}.{leaf}" if module in _IN_STAGE else rest
        official[f"stages.{stage}.{index}.{renamed}"] = tensor
    return official, left_out


def to_convnext(tensors: Mapping[str, np.ndarray]) -> Tensors:
    """Inverse of `from_convnext`."""
    modules = {ours: theirs for theirs, ours in _IN_STAGE.items()}
    renamed = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"downsample_layers\.(\d+)\.(.+)", name):
            stage, rest = match.groups()
            renamed[f"stem.{rest}" if stage == "0" else f"stages.{stage}.downsample.{rest}"] = (
                tensor
            )
        elif match := re.fullmatch(r"stages\.(\d+)\.(\d+)\.(.+)", name):
            stage, index, rest = match.groups()
            module, _, leaf = rest.rpartition(".")
            rest = f"{modules[module]}.{leaf}" if module in modules else rest
            renamed[f"stages.{stage}.blocks.{index}.{rest}"] = tensor
        else:
            renamed[re.sub(r"^norm\.", "head.norm.", name)] = tensor
    return renamed
