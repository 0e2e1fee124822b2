"""Hugging Face's names of ViT, DINOv2, DINOv2 with registers and MAE to the official ones and back.

Queries, keys and values are three layers there and one in the official code. transformers 5 uses
other names in memory than in the files it writes: files have "encoder.layer.0.attention.attention.
query.weight", a state dict has "layers.0.attention.q_proj.weight". Both are read; the first is
written.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

VIT, DINOV2, REGISTERS = "ViTModel", "Dinov2Model", "Dinov2WithRegistersModel"
MAE = "ViTMAEForPreTraining"

Tensors = dict[str, np.ndarray]

_TOP = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.register_tokens": "register_tokens",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
# Modules of a block: names in files, by class, and names in memory.
_VIT_MODULES = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
_DINOV2_MODULES = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.output.dense": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "mlp.weights_in": "mlp.w12",
    "mlp.weights_out": "mlp.w3",
}
_IN_MEMORY = {"attention.o_proj": "attn.proj", "mlp.down_proj": "mlp.w3"}
_MODULES = _VIT_MODULES | _DINOV2_MODULES | _IN_MEMORY
_LAYER_SCALES = {"layer_scale1.lambda1": "ls1.gamma", "layer_scale2.lambda1": "ls2.gamma"}
# Modules that are parts of one: its name, and the names of all parts in their order.
_QKV = [f"attention.attention.{part}" for part in ("query", "key", "value")]
_QKV_IN_MEMORY = [f"attention.{part}_proj" for part in "qkv"]
_GATE_IN_MEMORY = ["mlp.gate_proj", "mlp.up_proj"]
_PARTS = [("attn.qkv", _QKV), ("attn.qkv", _QKV_IN_MEMORY), ("mlp.w12", _GATE_IN_MEMORY)]

_BLOCK = re.compile(r"(?:encoder\.)?layers?\.(\d+)\.(.+)")
_PREFIX = re.compile(r"^(vit|dinov2|dinov2_with_registers)\.")
_DECODER = re.compile(r"^decoder\.(?:decoder_)?")
_PREDICTION = re.compile(r"^pred\.")
_NO_BACKBONE = re.compile(r"^(pooler|classifier)\.")


def is_huggingface(names: Sequence[str]) -> bool:
    """Whether tensors have Hugging Face's names."""
    return any("embeddings.patch_embeddings." in name for name in names)


def from_huggingface(tensors: Mapping[str, np.ndarray]) -> tuple[Tensors, list[str], str]:
    """Gives tensors their official names.

    Args:
      tensors: tensors under the names of a file or of a state dict of transformers.

    Returns:
      Tensors under official names; what has no official name keeps its own. Then the names of the
      tensors that belong to no backbone (a pooler, a classifier), and the class that the rest is
      of: VIT, DINOV2, REGISTERS or MAE, whose decoder is a head of that name.
    """
    plain = {_PREFIX.sub("", name): tensor for name, tensor in tensors.items()}
    decoder = {name: plain.pop(name) for name in list(plain) if _DECODER.match(name)}
    left_out = sorted(name for name in plain if _NO_BACKBONE.match(name))
    plain = {name: tensor for name, tensor in plain.items() if name not in left_out}
    official = {_official_name(name): tensor for name, tensor in _join_parts(plain).items()}
    official |= _name_decoder(decoder)
    if "mask_token" in official:
        official["mask_token"] = official["mask_token"].reshape(1, -1)  # [1, 1, D] in a ViTModel
    scaled = any(name.endswith("ls1.gamma") for name in official)
    plainest = DINOV2 if scaled else MAE if decoder else VIT
    return official, left_out, REGISTERS if "register_tokens" in official else plainest


def to_huggingface(tensors: Mapping[str, np.ndarray], class_name: str) -> Tensors:
    """Inverse of `from_huggingface`: the names of the files that transformers writes.

    Args:
      tensors: tensors of a backbone, under official names.
      class_name: VIT, DINOV2 or REGISTERS.

    Raises:
      ValueError: if the class has no place for a tensor; lists all of them.
    """
    modules = _VIT_MODULES if class_name == VIT else _DINOV2_MODULES
    block_names = {official: theirs for theirs, official in modules.items()}
    top_names = {official: theirs for theirs, official in _TOP.items()}
    scales = {} if class_name == VIT else {y: x for x, y in _LAYER_SCALES.items()}
    result, homeless = {}, []
    for name, tensor in tensors.items():
        block, _, rest = name.removeprefix("blocks.").partition(".")
        module, _, leaf = rest.rpartition(".")
        place = f"encoder.layer.{block}"
        if name in top_names:
            result[top_names[name]] = tensor
        elif module == "attn.qkv":
            for part, third in zip(_QKV, np.split(tensor, 3), strict=True):
                result[f"{place}.{part}.{leaf}"] = np.ascontiguousarray(third)
        elif module in block_names:
            result[f"{place}.{block_names[module]}.{leaf}"] = tensor
        elif rest in scales:
            result[f"{place}.{scales[rest]}"] = tensor
        else:
            homeless.append(name)
    if homeless:
        raise ValueError(f"{class_name} has no place for:\n  " + "\n  ".join(sorted(homeless)))
    if class_name == VIT and "embeddings.mask_token" in result:
        result["embeddings.mask_token"] = result["embeddings.mask_token"][None]
    return result


def _name_decoder(tensors: Tensors) -> Tensors:
    """The decoder of an MAE, as `mae_names.from_mae` names it."""
    plain = _join_parts({_DECODER.sub("", name): tensor for name, tensor in tensors.items()})
    return {
        f"decoder_head.{_PREDICTION.sub('predict.', _official_name(name))}": tensor
        for name, tensor in plain.items()
    }


def _official_name(name: str) -> str:
    block = _BLOCK.fullmatch(name)
    if not block:
        return _TOP.get(name, name)
    index, rest = block.groups()
    module, _, leaf = rest.rpartition(".")
    if rest in _LAYER_SCALES:
        return f"blocks.{index}.{_LAYER_SCALES[rest]}"
    return f"blocks.{index}.{_MODULES[module]}.{leaf}" if module in _MODULES else name


def _join_parts(tensors: Tensors) -> Tensors:
    """Joins parts that are one layer in the official code, if all of them are there."""
    joined = dict(tensors)
    for name in tensors:
        block = _BLOCK.fullmatch(name)
        if not block:
            continue
        index, rest = block.groups()
        module, _, leaf = rest.rpartition(".")
        for whole, parts in _PARTS:
            names = [f"{name.removesuffix(rest)}{part}.{leaf}" for part in parts]
            if module == parts[0] and all(part in tensors for part in names):
                joined[f"blocks.{index}.{whole}.{leaf}"] = np.concatenate(
                    [joined.pop(part) for part in names]
                )
    return joined
