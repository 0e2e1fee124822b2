"""Networks of DINOv3 under the names of the official code, of transformers and of timm."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dino_jax.models.convnext import ConvNext
from dino_jax.models.vision_transformer import VisionTransformer
from dino_jax.weights import dinov3_huggingface, dinov3_timm
from dino_jax.weights.dinov3_names import to_dinov3
from dino_jax.weights.torch_names import Variables

Tensors = dict[str, np.ndarray]
_QKV_BIAS = ("params", "backbone", "blocks", "attention", "qkv", "bias")


def is_of_dinov3(backbone: Any) -> bool:
    """Whether a backbone is of a kind that only DINOv3 has."""
    return isinstance(backbone, ConvNext) or (
        isinstance(backbone, VisionTransformer) and backbone.turns
    )


def rename_dinov3(
    tensors: Tensors, backbone: Any, names: str
) -> tuple[Tensors, dict[str, Any] | None, list[str]]:
    """Tensors under other names, a config.json or None, and lines about what is not there.

    Args:
      tensors: tensors under the names of DINOv2, or of DINOv3 for a ConvNeXt.
      backbone: the backbone.
      names: one of `export_weights.NAMES`.

    Raises:
      ValueError: if the names cannot express the network.
    """
    if names == "official":
        return to_dinov3(tensors, backbone), None, _official_notes(backbone)
    if isinstance(backbone, ConvNext):
        if names == "timm":
            return dinov3_timm.to_convnext(tensors), None, []
        config = dinov3_huggingface.config_of_convnext(backbone)
        return dinov3_huggingface.to_convnext(tensors), config, []
    if names == "timm":
        renamed, left_out = dinov3_timm.to_vit(tensors, backbone)
        said = f"left out: {', '.join(left_out)}: timm has no place for what only training needs"
        return renamed, None, [said] if left_out else []
    config = dinov3_huggingface.config_of_vit(backbone, _ffn_width(tensors))
    return dinov3_huggingface.to_vit(tensors, backbone.key_bias), config, []


def shown(variables: Variables, backbone: Any, names: str) -> Variables:
    """The variables as a file with these names shows them: without what does not count there.

    Args:
      variables: ours.
      backbone: the backbone.
      names: as in `rename_dinov3`.
    """
    if names == "official" or not is_of_dinov3(backbone) or isinstance(backbone, ConvNext):
        return variables
    flat: dict[tuple, Any] = dict(flatten_dict(variables))
    if _QKV_BIAS in flat and not backbone.key_bias:
        queries, keys, values = jnp.split(flat[_QKV_BIAS], 3, axis=1)
        flat[_QKV_BIAS] = jnp.concatenate([queries, jnp.zeros_like(keys), values], axis=1)
    if names == "timm":
        flat = {
            path: x for path, x in flat.items() if path[2] not in ("mask_token", "local_cls_norm")
        }
    return unflatten_dict(flat)


def _official_notes(backbone: Any) -> list[str]:
    if isinstance(backbone, ConvNext) or backbone.rope.normalize == "separate":
        return []
    return [
        f"note: no tensor says that coordinates are normalized by {backbone.rope.normalize!r}; the "
        "official code must be told (pos_embed_rope_normalize_coords)"
    ]


def _ffn_width(tensors: Tensors) -> int:
    """Hidden width of the FFN."""
    last = next(
        x for name, x in tensors.items() if name.endswith(("mlp.fc2.weight", "mlp.w3.weight"))
    )
    return last.shape[1]
