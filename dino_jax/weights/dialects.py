"""Recognizes the code base that named the tensors of a file; gives their official names."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from dino_jax.models.backbone import ImplicitSettings
from dino_jax.models.rope import Config as Rope
from dino_jax.weights import dinov3_huggingface, dinov3_names, dinov3_timm
from dino_jax.weights.huggingface_config import KERNELS
from dino_jax.weights.huggingface_names import MAE, VIT, from_huggingface, is_huggingface
from dino_jax.weights.mae_names import from_mae, has_decoder, has_sincos_positions
from dino_jax.weights.moco_names import from_moco, has_heads
from dino_jax.weights.timm_names import from_timm, is_timm


class Official(NamedTuple):
    """Tensors under official names, and settings known only from the code base that made them.

    Attributes:
      tensors: official names to arrays.
      names: code base whose names the file has, for the console.
      left_out: tensors of the file that belong to no backbone.
      position_kernel: kernel with which that code base resamples the position table, if any.
      norm_epsilon: epsilon of its LayerNorms.
      rope: how queries and keys turn; None: they do not.
      key_bias: whether the bias of the keys counts.
      num_heads: attention heads, if a tensor shows them.
    """

    tensors: dict[str, np.ndarray]
    names: str
    left_out: list[str]
    position_kernel: str | None
    norm_epsilon: float
    rope: Rope | None = None
    key_bias: bool = True
    num_heads: int | None = None

    def implicit(self, num_heads: int | None, norm_epsilon: float | None) -> ImplicitSettings:
        """Settings that no shape shows; the arguments are what is known otherwise, if anything.

        Raises:
          ValueError: if the number of attention heads is another one.
        """
        if None not in (num_heads, self.num_heads) and num_heads != self.num_heads:
            raise ValueError(
                f"rope_embed.periods are those of {self.num_heads} attention heads, not {num_heads}"
            )
        return ImplicitSettings(
            num_heads=num_heads or self.num_heads,
            position_kernel=self.position_kernel,
            norm_epsilon=norm_epsilon or self.norm_epsilon,
            rope=self.rope,
            key_bias=self.key_bias,
        )


def to_official(
    tensors: Mapping[str, np.ndarray], by_timm: bool = False, rope: Rope | None = None
) -> Official:
    """Gives the tensors of a network their official names, whichever code base they are from.

    Args:
      tensors: names of the file to arrays.
      by_timm: whether a file beside it says that it is timm's; its names do not always.
      rope: how queries and keys turn, if the names say that they do and no tensor says how; None:
        as in the released models of DINOv3.

    Raises:
      ValueError: if a tensor says that they turn in an unknown way.
    """
    if dinov3 := _of_dinov3(tensors, rope or Rope()):
        return dinov3
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
    if has_sincos_positions(tensors) or has_heads(tensors):
        encoder, classifier = from_moco(tensors)
        return Official(encoder, "MAE or MoCo v3", classifier, "bicubic_plain", 1e-6)
    registers = any(name.endswith("register_tokens") for name in tensors)
    kernel = "antialiased" if registers else "bicubic"
    return Official(dict(tensors), "official", [], kernel, 1e-6)


def _of_dinov3(tensors: Mapping[str, np.ndarray], rope: Rope) -> Official | None:
    """The same for ViTs and ConvNeXts of DINOv3; None: they are of something else.

    `rope` is for the code bases that do not save the periods.
    """
    names = list(tensors)
    if dinov3_names.is_convnext(names):
        return Official(dinov3_names.from_dinov3(tensors).tensors, "DINOv3", [], None, 1e-6)
    if dinov3_names.is_dinov3(names):
        plain = dinov3_names.from_dinov3(tensors)
        settings = (plain.rope, plain.key_bias, plain.num_heads)
        return Official(plain.tensors, "DINOv3", [], None, 1e-5, *settings)
    if dinov3_huggingface.is_vit(names):
        official, key_bias = dinov3_huggingface.from_vit(tensors)
        title = f"Hugging Face {dinov3_huggingface.VIT}"
        return Official(official, title, [], None, 1e-5, rope, key_bias)
    if dinov3_huggingface.is_convnext(names):
        official = dinov3_huggingface.from_convnext(tensors)
        return Official(official, f"Hugging Face {dinov3_huggingface.CONVNEXT}", [], None, 1e-6)
    if dinov3_timm.is_vit(names):
        official, left_out = dinov3_timm.from_vit(tensors)
        return Official(official, "timm", left_out, None, 1e-5, rope, False)
    if dinov3_timm.is_convnext(names):
        official, left_out = dinov3_timm.from_convnext(tensors)
        return Official(official, "timm", left_out, None, 1e-6)
    return None
