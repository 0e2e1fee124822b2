"""The official names of MAE: a ViT as DINO's, and a decoder whose names begin with "decoder_"."""

import math
import re
from collections.abc import Mapping

import numpy as np

from dino_jax.models.position import sincos_table

HEAD_DIM = 32  # channels of an attention head in the official decoder; no shape shows it

HEAD = "decoder_head."  # before the names of the decoder's tensors, as of every head of ours
_DECODER = {
    "decoder_embed.": "embed.",
    "decoder_pos_embed": "pos_embed",
    "decoder_blocks.": "blocks.",
    "decoder_norm.": "norm.",
    "decoder_pred.": "predict.",
    "mask_token": "mask_token",  # as wide as the decoder
}
_PREFIX = re.compile(r"^(module\.)?")


def has_decoder(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether tensors are those of a whole MAE, under the official or Hugging Face's names."""
    plain = (_PREFIX.sub("", name) for name in tensors)
    return any(name.startswith(("decoder_embed.", "decoder.decoder_embed.")) for name in plain)


def has_sincos_positions(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether the position table is the fixed one of MAE or MoCo v3."""
    tables = [x for name, x in tensors.items() if _PREFIX.sub("", name) == "pos_embed"]
    if not tables or tables[0].ndim != 3 or tables[0].shape[2] % 4:
        return False
    _, count, dim = tables[0].shape
    side = math.isqrt(count - 1)
    return side * side == count - 1 and any(
        np.allclose(tables[0], sincos_table(dim, (side, side), rows_first), rtol=0, atol=1e-5)
        for rows_first in (False, True)
    )


def from_mae(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Gives the decoder the prefix of a head of that name, "decoder_head."."""
    renamed = {}
    for name, value in tensors.items():
        plain = _PREFIX.sub("", name)
        own = next((old for old in _DECODER if plain.startswith(old)), None)
        if own is not None:
            plain = f"{HEAD}{_DECODER[own]}{plain.removeprefix(own)}"
        renamed[plain] = value
    return renamed


def to_mae(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Inverse of `from_mae`: the official names."""
    renamed = {}
    for name, value in tensors.items():
        plain = name.removeprefix(HEAD)
        if plain != name:
            old, own = next(x for x in _DECODER.items() if plain.startswith(x[1]))
            plain = f"{old}{plain.removeprefix(own)}"
        renamed[plain] = value
    return renamed


def infer_decoder(
    tensors: Mapping[str, np.ndarray], num_heads: int | None = None
) -> dict[str, object]:
    """The entry of the section `network.heads` that describes a decoder.

    Args:
      tensors: tensors under the names of `from_mae`.
      num_heads: attention heads; None: of 32 channels each, as in the official decoder.

    Raises:
      ValueError: if a tensor that shows a size is missing, or a size is unknown.
    """
    shapes = {name.removeprefix(HEAD): x.shape for name, x in tensors.items()}
    missing = sorted({"embed.weight", "predict.weight", "pos_embed"} - shapes.keys())
    if missing:
        raise ValueError(f"the decoder of this MAE lacks {missing}")
    width, side = shapes["embed.weight"][0], math.isqrt(shapes["pos_embed"][1] - 1)
    heads = num_heads or width // HEAD_DIM
    if side * side != shapes["pos_embed"][1] - 1 or not heads or width % heads:
        raise ValueError(
            f"a decoder of width {width} with {heads} attention heads and "
            f"{shapes['pos_embed'][1] - 1} positions: only square grids are known, and heads whose "
            "number divides the width"
        )
    blocks = {name.split(".")[1] for name in shapes if name.startswith("blocks.")}
    return {
        "kind": "decoder",
        "grid": (side, side),
        "out_dim": shapes["predict.weight"][0],
        "embed_dim": width,
        "depth": len(blocks),
        "num_heads": heads,
    }
