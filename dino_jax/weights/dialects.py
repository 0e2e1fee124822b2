"""Recognizes the code base that named the tensors of a file; gives their official names."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from dino_jax.weights.huggingface_config import KERNELS
from dino_jax.weights.huggingface_names import MAE, VIT, from_huggingface, is_huggingface
from dino_jax.weights.mae_names import from_mae, has_decoder, has_sincos_positions
from dino_jax.weights.timm_names import from_timm, is_timm


class Official(NamedTuple):
    """Tensors under official names, and settings known only from the code base that made them.

    Attributes:
      tensors: official names to arrays.
      names: code base whose names the file has, for the console.
      left_out: tensors of the file that belong to no backbone.
      position_kernel: kernel with which that code base resamples the position table.
      norm_epsilon: epsilon of its LayerNorms.
    """

    tensors: dict[str, np.ndarray]
    names: str
    left_out: list[str]
    position_kernel: str
    norm_epsilon: float


def to_official(tensors: Mapping[str, np.ndarray], by_timm: bool = False) -> Official:
    """Gives the tensors of a network their official names, whichever code base they are from.

    Args:
      tensors: names of the file to arrays.
      by_timm: whether a file beside it says that it is timm's; its names do not always.
    """
    if is_huggingface(list(tensors)):
        official, left_out, class_name = from_huggingface(tensors)
        kernel = KERNELS[class_name]
        # transformers' defaults, which its conversions of the official weights kept.
        epsilon = 1e-12 if class_name in (VIT, MAE) else 1e-6
        return Official(official, f"Hugging Face {class_name}", left_out, kernel, epsilon)
    if by_timm or is_timm(tensors):
        official, left_out = from_timm(tensors)
        return Official(official, "timm", left_out, "antialiased", 1e-6)
    if has_decoder(tensors):
        return Official(from_mae(tensors), "MAE", [], "bicubic_plain", 1e-6)
    if has_sincos_positions(tensors):
        # MoCo v3's projector, or the classifier of a linear probe, has the place of a head.
        heads = sorted(name for name in tensors if name.startswith("head."))
        encoder = {name: tensor for name, tensor in tensors.items() if name not in heads}
        return Official(encoder, "MAE or MoCo v3", heads, "bicubic_plain", 1e-6)
    registers = any(name.endswith("register_tokens") for name in tensors)
    kernel = "antialiased" if registers else "bicubic"
    return Official(dict(tensors), "official", [], kernel, 1e-6)
