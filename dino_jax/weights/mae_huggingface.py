"""Hugging Face's names and config.json of a whole MAE: a ViTMAEForPreTraining."""

from collections.abc import Mapping
from typing import Any

from dino_jax.models.decoder import Decoder
from dino_jax.models.vision_transformer import VisionTransformer
from dino_jax.weights.huggingface_config import choose_class, make_config
from dino_jax.weights.huggingface_names import MAE, VIT, Tensors, to_huggingface
from dino_jax.weights.mae_names import HEAD

_DECODER = {
    "embed.": "decoder_embed.",
    "pos_embed": "decoder_pos_embed",
    "encoder.layer.": "decoder_layers.",
    "norm.": "decoder_norm.",
    "predict.": "decoder_pred.",
    "mask_token": "mask_token",
}


def to_vit_mae(tensors: Mapping[str, Any]) -> Tensors:
    """Names in the files that transformers writes.

    Args:
      tensors: of backbone and decoder, under official names but for the decoder's prefix, see
        `mae_names.from_mae`.

    Raises:
      ValueError: if the class has no place for a tensor; lists all of them.
    """
    own = {name.removeprefix(HEAD): x for name, x in tensors.items() if name.startswith(HEAD)}
    backbone = {name: x for name, x in tensors.items() if not name.startswith(HEAD)}
    blocks = {name: x for name, x in own.items() if name.startswith("blocks.")}
    decoder = {name: x for name, x in own.items() if name not in blocks}
    decoder |= to_huggingface(blocks, VIT)
    result = {f"vit.{name}": x for name, x in to_huggingface(backbone, VIT).items()}
    for name, x in decoder.items():
        start = next(start for start in _DECODER if name.startswith(start))
        result[f"decoder.{_DECODER[start]}{name.removeprefix(start)}"] = x
    return result


def make_vit_mae_config(
    vit: VisionTransformer, decoder: Decoder
) -> tuple[dict[str, Any], list[str]]:
    """The content of config.json, and notes on where transformers behaves differently.

    Raises:
      ValueError: if a ViTMAEForPreTraining cannot have all parts of the ViT.
    """
    if choose_class(vit) != VIT:
        raise ValueError(f"transformers' {MAE} cannot have LayerScale; use --names=official")
    config, lines = make_config(vit, VIT)
    return config | {
        "architectures": [MAE],
        "model_type": "vit_mae",
        "decoder_hidden_size": decoder.embed_dim,
        "decoder_num_hidden_layers": decoder.depth,
        "decoder_num_attention_heads": decoder.num_heads,
        "decoder_intermediate_size": 4 * decoder.embed_dim,
    }, lines
