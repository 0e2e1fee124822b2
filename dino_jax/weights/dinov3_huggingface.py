"""The names of DINOv3ViTModel and DINOv3ConvNextModel of transformers, and their config.json."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dino_jax.models.rope import Config as Rope

Tensors = dict[str, np.ndarray]
VIT, CONVNEXT = "DINOv3ViTModel", "DINOv3ConvNextModel"

_TOP = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.register_tokens": "register_tokens",
    "embeddings.patch_embeddings.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.bias": "patch_embed.proj.bias",
    "norm.weight": "norm.weight",
    "norm.bias": "norm.bias",
}
_IN_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.o_proj": "attn.proj",
    "mlp.up_proj": "mlp.fc1",
    "mlp.down_proj": "mlp.fc2",
}
_GATED = {"mlp.down_proj": "mlp.w3"}
_SCALES = {"layer_scale1.lambda1": "ls1.gamma", "layer_scale2.lambda1": "ls2.gamma"}
_IN_STAGE = {
    "depthwise_conv": "dwconv",
    "layer_norm": "norm",
    "pointwise_conv1": "pwconv1",
    "pointwise_conv2": "pwconv2",
}
# In files "layer.0.norm1.weight", in memory behind "model."
_LAYER = re.compile(r"(?:model\.)?layer\.(\d+)\.(.+)")
_STAGE = re.compile(r"(?:model\.)?stages\.(\d+)\.(layers|downsample_layers)\.(\d+)\.(.+)")


def is_vit(names: list[str]) -> bool:
    """Whether tensors are those of a DINOv3ViTModel."""
    return "embeddings.patch_embeddings.weight" in names


def is_convnext(names: list[str]) -> bool:
    """Whether tensors are those of a DINOv3ConvNextModel."""
    return any(_STAGE.fullmatch(name) and "depthwise_conv" in name for name in names)


def from_vit(tensors: Mapping[str, np.ndarray]) -> tuple[Tensors, bool]:
    """Gives the tensors of a DINOv3ViTModel the names of DINOv2.

    Returns:
      The tensors, where a missing bias of the keys is 0, and whether that bias counts.
    """
    gated = any(".gate_proj." in name for name in tensors)
    modules = _IN_BLOCK | (_GATED if gated else {})
    official, parts = {}, {}
    for name, tensor in tensors.items():
        match = _LAYER.fullmatch(name)
        if not match:
            official[_TOP.get(name, name)] = tensor
            continue
        index, rest = match.groups()
        module, _, leaf = rest.rpartition(".")
        block = f"blocks.{index}."
        if rest in _SCALES:
            official[block + _SCALES[rest]] = tensor
        elif part := re.fullmatch(r"attention\.([qkv])_proj", module):
            parts.setdefault(f"{block}attn.qkv.{leaf}", {})["qkv".index(part[1])] = tensor
        elif gated and module in ("mlp.gate_proj", "mlp.up_proj"):
            parts.setdefault(f"{block}mlp.w12.{leaf}", {})[int("up" in module)] = tensor
        else:
            official[f"{block}{modules[module]}.{leaf}" if module in modules else name] = tensor
    key_bias = any(name.endswith("k_proj.bias") for name in tensors)
    for name, found in parts.items():
        if name.endswith("attn.qkv.bias") and set(found) == {0, 2}:
            found[1] = np.zeros_like(found[0])
        official[name] = np.concatenate([found[i] for i in sorted(found)])
    if "mask_token" in official:
        official["mask_token"] = official["mask_token"].reshape(1, -1)  # [1, 1, D] there
    if official.get("register_tokens", np.ones(1)).size == 0:
        del official["register_tokens"]
    return official, key_bias


def to_vit(tensors: Mapping[str, np.ndarray], key_bias: bool) -> Tensors:
    """Inverse of `from_vit`, under the names of files."""
    top = {ours: theirs for theirs, ours in _TOP.items()}
    modules = {ours: theirs for theirs, ours in (_IN_BLOCK.items() | _GATED.items())}
    scales = {ours: theirs for theirs, ours in _SCALES.items()}
    renamed = {}
    for name, tensor in tensors.items():
        if name in top:
            renamed[top[name]] = tensor[None] if name == "mask_token" else tensor
            continue
        _, index, rest = name.split(".", 2)
        module, _, leaf = rest.rpartition(".")
        block = f"layer.{index}."
        if rest in scales:
            renamed[block + scales[rest]] = tensor
        elif module == "attn.qkv":
            for part, third in zip("qkv", np.split(tensor, 3), strict=True):
                if part != "k" or leaf == "weight" or key_bias:
                    renamed[f"{block}attention.{part}_proj.{leaf}"] = np.ascontiguousarray(third)
        elif module == "mlp.w12":
            for part, half in zip(("gate", "up"), np.split(tensor, 2), strict=True):
                renamed[f"{block}mlp.{part}_proj.{leaf}"] = np.ascontiguousarray(half)
        else:
            renamed[f"{block}{modules[module]}.{leaf}"] = tensor
    return renamed


def from_convnext(tensors: Mapping[str, np.ndarray]) -> Tensors:
    """Gives the tensors of a DINOv3ConvNextModel the names of DINOv3."""
    official = {}
    for name, tensor in tensors.items():
        match = _STAGE.fullmatch(name)
        if not match:
            official[re.sub(r"^layer_norm\.", "norm.", name)] = tensor
            continue
        stage, kind, index, rest = match.groups()
        if kind == "downsample_layers":
            official[f"downsample_layers.{stage}.{index}.{rest}"] = tensor
            continue
        module, _, leaf = rest.rpartition(".")
        place = f"stages.{stage}.{index}."
        official[f"{place}{_IN_STAGE[module]}.{leaf}" if module in _IN_STAGE else place + rest] = (
            tensor
        )
    return official


def to_convnext(tensors: Mapping[str, np.ndarray]) -> Tensors:
    """Inverse of `from_convnext`, under the names of files."""
    modules = {ours: theirs for theirs, ours in _IN_STAGE.items()}
    renamed = {}
    for name, tensor in tensors.items():
        kind, *numbers, rest = name.split(".", 3) if name.count(".") > 1 else (name, name)
        if kind == "downsample_layers":
            stage, index = numbers
            renamed[f"stages.{stage}.downsample_layers.{index}.{rest}"] = tensor
        elif kind == "stages":
            stage, index = numbers
            module, _, leaf = rest.rpartition(".")
            rest = f"{modules[module]}.{leaf}" if module in modules else rest
            renamed[f"stages.{stage}.layers.{index}.{rest}"] = tensor
        else:
            renamed[re.sub(r"^norm\.", "layer_norm.", name)] = tensor
    return renamed


def rope_of(config: Mapping[str, Any]) -> Rope:
    """The angles that a config.json describes; without one, those of the released models."""
    theta = config.get("rope_theta", 100.0)
    if type(theta) not in (int, float) or not theta > 1:
        raise ValueError(f"config.json says rope_theta={theta!r:.50}; expected a number above 1")
    return Rope(base=float(theta))


def config_of_vit(vit: Any, ffn_width: int) -> dict[str, Any]:
    """config.json of a DINOv3ViTModel.

    Args:
      vit: our ViT.
      ffn_width: hidden width of its FFN.

    Raises:
      ValueError: if the class lacks a part of it; names all of them.
    """
    rope, problems = vit.rope, []
    if not vit.layer_scale:
        problems.append("no LayerScale")
    if not vit.has_mask_token:
        problems.append("no mask token")
    if vit.cls_norm or vit.local_cls_norm:
        problems.append("norms of its own for cls (cls_norm, local_cls_norm)")
    if rope.min_period is not None or rope.normalize != "separate":
        problems.append("angles by anything but a base, over both sides")
    if problems:
        raise ValueError(f"transformers' {VIT} cannot have {', '.join(problems)}")
    return {
        "architectures": [VIT],
        "model_type": "dinov3_vit",
        "hidden_size": vit.embed_dim,
        "intermediate_size": ffn_width,
        "num_hidden_layers": vit.depth,
        "num_attention_heads": vit.num_heads,
        "num_register_tokens": vit.registers,
        "hidden_act": "silu" if vit.ffn != "mlp" else "gelu",
        "use_gated_mlp": vit.ffn != "mlp",
        "layer_norm_eps": vit.norm_epsilon,
        "rope_theta": rope.base,
        "image_size": vit.image_size[0],
        "patch_size": vit.patch_size,
        "num_channels": vit.in_channels,
        "query_bias": vit.qkv_bias,
        "key_bias": vit.qkv_bias and vit.key_bias,
        "value_bias": vit.qkv_bias,
        "proj_bias": vit.proj_bias,
        "mlp_bias": vit.ffn_bias,
        "pos_embed_shift": rope.shift or None,
        "pos_embed_jitter": rope.jitter if rope.jitter > 1 else None,
        "pos_embed_rescale": rope.rescale if rope.rescale > 1 else None,
        "dtype": "float32",
    }


def config_of_convnext(convnext: Any) -> dict[str, Any]:
    """config.json of a DINOv3ConvNextModel."""
    widths = [convnext.width * 2**stage for stage in range(len(convnext.depths))]
    return {
        "architectures": [CONVNEXT],
        "model_type": "dinov3_convnext",
        "hidden_sizes": widths,
        "depths": list(convnext.depths),
        "hidden_act": "gelu",
        "layer_norm_eps": convnext.implicit.norm_epsilon,
        "num_channels": convnext.in_channels,
        "dtype": "float32",
    }
