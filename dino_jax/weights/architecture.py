"""The network described by tensors under official names: all sizes are read off their shapes."""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dino_jax.models.backbone import ImplicitSettings
from dino_jax.models.stem import STEM_PATCH

HEAD_DIM = 64  # channels of an attention head in every official ViT but one; no shape shows it
WIDE_HEADS = {4096: 32}  # by width: DINOv3's ViT-7B
USUAL_SIZE = 224  # pixels, where there is no position table

Shapes = Mapping[str, tuple[int, ...]]
_BLOCK_NUMBER = re.compile(r"^blocks\.(?:\d+\.)?(\d+)\.")  # perhaps after the number of its chunk


def infer_backbone(tensors: Mapping[str, np.ndarray], implicit: ImplicitSettings) -> dict[str, Any]:
    """The section `network.backbone` of the config; options that it omits have their defaults.

    Args:
      tensors: tensors of a backbone under official names, perhaps prefixed by "module." and
        "backbone.".
      implicit: settings that the tensors do not show; without num_heads a head has `HEAD_DIM`
        channels.

    Raises:
      ValueError: if it is no ViT of DINO, DINOv2 or DINOv3, no ResNet and no ConvNeXt.
    """
    shapes = {re.sub(r"^(module\.|backbone\.)*", "", k): v.shape for k, v in tensors.items()}
    if "layer1.0.conv1.weight" in shapes and "conv1.weight" in shapes:
        return _infer_resnet(shapes)
    if "stages.0.0.dwconv.weight" in shapes:
        return _infer_convnext(shapes)
    return _infer_vit(shapes, implicit)


def _infer_vit(shapes: Shapes, implicit: ImplicitSettings) -> dict[str, Any]:
    stem = "patch_embed.proj.12.weight" in shapes
    try:
        if stem:  # of convolutions, MoCo v3's
            dim, channels = shapes["pos_embed"][2], shapes["patch_embed.proj.0.weight"][1]
            patch = patch_width = STEM_PATCH
        else:
            dim, channels, patch, patch_width = shapes["patch_embed.proj.weight"]
        positions = 0 if implicit.rope else shapes["pos_embed"][1]
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(
            "neither a ViT of DINO, DINOv2 or DINOv3, nor a ResNet or ConvNeXt: its "
            f"{len(shapes)} tensors are {sorted(shapes)[:5]} …; expected pos_embed (or "
            "rope_embed.periods) and patch_embed.proj.weight, conv1.weight and "
            "layer1.0.conv1.weight, or stages.0.0.dwconv.weight"
        ) from error
    side = USUAL_SIZE // patch if implicit.rope else math.isqrt(positions - 1)
    if (not implicit.rope and side * side != positions - 1) or patch != patch_width:
        raise ValueError(
            f"{positions - 1} positions of patches of {patch} x {patch_width} pixels: only square "
            "tables of square patches are known"
        )
    ffn, ratio = _infer_ffn(shapes, dim)
    blocks = {match[1] for name in shapes if (match := _BLOCK_NUMBER.match(name))}
    return {
        "kind": "vit",
        "stem": "convolutions" if stem else "patches",
        "embed_dim": dim,
        "depth": len(blocks),
        "num_heads": _choose_heads(dim, implicit.num_heads),
        "patch_size": patch,
        "image_size": (max(side, 1) * patch,) * 2,
        "in_channels": channels,
        "mlp_ratio": ratio,
        "ffn": ffn,
        "layer_scale": 1.0 if _has(shapes, "ls1.gamma") else 0.0,
        "registers": shapes.get("register_tokens", (1, 0, dim))[1],
        "has_mask_token": "mask_token" in shapes,
        "qkv_bias": _has(shapes, "attn.qkv.bias"),
        "key_bias": implicit.key_bias is not False,
        "proj_bias": _has(shapes, "attn.proj.bias"),
        "ffn_bias": _has(shapes, f"mlp.{'w3' if ffn == 'swiglu' else 'fc2'}.bias"),
        "norm_epsilon": implicit.norm_epsilon,
        "drop_path_rate": 0.0,
        **({"position_kernel": implicit.position_kernel} if implicit.position_kernel else {}),
        **({"position": "rope", "rope": implicit.rope} if implicit.rope else {}),
        "cls_norm": "cls_norm.weight" in shapes,
        "local_cls_norm": "local_cls_norm.weight" in shapes,
        "scan_unroll": 1,
    }


def _choose_heads(dim: int, num_heads: int | None) -> int:
    num_heads = WIDE_HEADS.get(dim) if num_heads is None else num_heads
    if num_heads is None and dim % HEAD_DIM:
        raise ValueError(
            f"the width {dim} is not a multiple of {HEAD_DIM}, the channels of an official "
            "attention head, and no shape shows the number of heads; import the file with "
            "--num-heads"
        )
    if num_heads is not None and (num_heads < 1 or dim % num_heads):
        raise ValueError(f"the width {dim} is not a multiple of num_heads ({num_heads})")
    return num_heads or dim // HEAD_DIM


def _infer_ffn(shapes: Shapes, dim: int) -> tuple[str, float]:
    """Kind of the FFN, and the ratio from which our layers compute its hidden width."""
    for name, shape in shapes.items():
        if name.endswith("mlp.w3.weight"):
            # The gate has two thirds of the hidden width, rounded up; released files have ratio 4.
            is_four = shape[1] == (int(4 * dim * 2 / 3) + 7) // 8 * 8
            return "swiglu", 4.0 if is_four else _ratio(shape[1] * 3 // 2, dim)
        if name.endswith("mlp.fc1.weight"):
            return "mlp", _ratio(shape[0], dim)
    return "mlp", 4.0


def _ratio(hidden: int, dim: int) -> float:
    """The ratio with int(dim * ratio) == hidden, in spite of rounding."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else math.nextafter(ratio, math.inf)


def _has(shapes: Shapes, ending: str) -> bool:
    return any(name.endswith(ending) for name in shapes)


def _infer_resnet(shapes: Shapes) -> dict[str, Any]:
    blocks = [re.match(r"layer(\d+)\.(\d+)\.", name) for name in shapes]
    numbers = {(int(match[1]), int(match[2])) for match in blocks if match}
    stages = sorted({stage for stage, _ in numbers})
    width, channels, kernel, _ = shapes["conv1.weight"]
    return {
        "kind": "resnet",
        "depths": tuple(sum(number[0] == stage for number in numbers) for stage in stages),
        "width": width,
        "in_channels": channels,
        "stem": "small" if kernel == 3 else "imagenet",
    }


def _infer_convnext(shapes: Shapes) -> dict[str, Any]:
    blocks = [re.match(r"stages\.(\d+)\.(\d+)\.", name) for name in shapes]
    numbers = {(int(match[1]), int(match[2])) for match in blocks if match}
    stages = sorted({stage for stage, _ in numbers})
    if "downsample_layers.0.0.weight" not in shapes:
        raise ValueError("this ConvNeXt lacks downsample_layers.0.0.weight")
    width, channels, *_ = shapes["downsample_layers.0.0.weight"]
    return {
        "kind": "convnext",
        "depths": tuple(sum(number[0] == stage for number in numbers) for stage in stages),
        "width": width,
        "in_channels": channels,
    }


def infer_head(name: str, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """One entry of the section `network.heads` of the config.

    Args:
      name: name for messages.
      tensors: tensors of one head, under official names with any prefix.

    Raises:
      ValueError: if it is not a head of DINO or DINOv2.
    """
    plain = {re.sub(r"^.*?(?=(mlp|last_layer)\.)", "", k): v for k, v in tensors.items()}
    numbers = [match for key in plain if (match := re.fullmatch(r"mlp\.(\d+)\.weight", key))]
    linear = [
        plain[m[0]] for m in sorted(numbers, key=lambda m: int(m[1])) if plain[m[0]].ndim == 2
    ]
    if "mlp.weight" in plain:
        linear = [plain["mlp.weight"]]
    last = {"last_layer.weight_v", "last_layer.weight"} & plain.keys()
    if not linear or len(last) != 1:
        raise ValueError(
            f"{name} is not a head of DINO or DINOv2: its tensors are {sorted(tensors)}; expected "
            "mlp.N.weight and last_layer.weight_v (or last_layer.weight of DINOv3)"
        )
    (name_of_last,) = last
    gain = plain.get("last_layer.weight_g", np.ones(1))
    return {
        "kind": "dino",
        "out_dim": plain[name_of_last].shape[0],
        "hidden_dim": linear[0].shape[0],
        "bottleneck_dim": linear[-1].shape[0],
        "layers": len(linear),
        "batch_norm": any(key.endswith("running_mean") for key in plain),
        "train_gain": not np.allclose(np.asarray(gain, np.float32), 1.0, rtol=0, atol=1e-5),
        "last_layer": "linear" if name_of_last.endswith("weight") else "prototypes",
    }
