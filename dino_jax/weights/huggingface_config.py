"""The config.json with which Hugging Face's transformers builds one of our ViTs."""

from typing import Any

from dino_jax.models.vision_transformer import VisionTransformer
from dino_jax.weights.huggingface_names import DINOV2, MAE, REGISTERS, VIT

_MODEL_TYPES = {VIT: "vit", DINOV2: "dinov2", REGISTERS: "dinov2_with_registers"}
# Kernel with which each class resamples its position table.
KERNELS = {
    **dict.fromkeys((VIT, DINOV2, MAE), "bicubic_plain"),
    REGISTERS: "antialiased",
}


def choose_class(vit: VisionTransformer) -> str:
    """The class of transformers for a ViT: VIT, DINOV2 or REGISTERS.

    Raises:
      ValueError: if none of them supports all of its parts; names the others.
    """
    class_name = REGISTERS if vit.registers else DINOV2 if vit.layer_scale else VIT
    problems = []
    if class_name == REGISTERS and not vit.layer_scale:
        problems.append("registers without LayerScale")
    if class_name == VIT and vit.ffn != "mlp":
        problems.append(f"ffn={vit.ffn!r} without LayerScale")
    if not vit.proj_bias or not vit.ffn_bias:
        problems.append("layers without a bias (proj_bias, ffn_bias)")
    if vit.image_size[0] != vit.image_size[1]:
        problems.append(f"a position table for {vit.image_size[0]} x {vit.image_size[1]} pixels")
    if class_name != VIT and vit.mlp_ratio != int(vit.mlp_ratio):
        problems.append(f"mlp_ratio={vit.mlp_ratio}")
    if problems:
        raise ValueError(
            f"transformers' {class_name} cannot have {', '.join(problems)}; use --names=official"
        )
    return class_name


def make_config(vit: VisionTransformer, class_name: str) -> tuple[dict[str, Any], list[str]]:
    """The content of config.json, and notes on where transformers behaves differently."""
    config = {
        "architectures": [class_name],
        "model_type": _MODEL_TYPES[class_name],
        "hidden_size": vit.embed_dim,
        "num_hidden_layers": vit.depth,
        "num_attention_heads": vit.num_heads,
        "hidden_act": "gelu",
        "layer_norm_eps": vit.norm_epsilon,
        "image_size": vit.image_size[0],
        "patch_size": vit.patch_size,
        "num_channels": vit.in_channels,
        "qkv_bias": vit.qkv_bias,
        "dtype": "float32",
    }
    hidden = int(vit.embed_dim * vit.mlp_ratio)
    if class_name == VIT:
        config["intermediate_size"] = hidden
    else:
        config |= {"mlp_ratio": int(vit.mlp_ratio), "use_swiglu_ffn": vit.ffn == "swiglu"}
        config |= {"layerscale_value": 1.0}  # replaced by the weights
    if class_name == DINOV2:
        config["use_mask_token"] = vit.has_mask_token
    if class_name == REGISTERS:
        config["num_register_tokens"] = vit.registers
    kernel, side = KERNELS[class_name], vit.image_size[0]
    if kernel == vit.position_kernel:
        return config, []
    return config, [
        f"note: transformers resamples positions with {kernel!r}, this model with "
        f"{vit.position_kernel!r}: at other sizes than {side} x {side} its features differ"
    ]
