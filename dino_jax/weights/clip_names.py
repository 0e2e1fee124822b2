"""Tensors of CLIP and SigLIP under Hugging Face's or OpenCLIP's names to our variables.

Hugging Face's names are "vision_model.encoder.layers.0.self_attn.q_proj.weight", OpenCLIP's and
OpenAI's "visual.transformer.resblocks.0.attn.in_proj_weight". The second are first turned into the
first: packed queries, keys and values are split, and projections, which OpenCLIP multiplies from
the right, are transposed.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dino_jax.weights.torch_names import Path, Variables

Tensors = dict[str, np.ndarray]

_HUGGINGFACE = re.compile(r"(vision_model|text_model)\.embeddings\.")
_OPENCLIP = re.compile(r"visual\.(class_embedding|conv1\.|trunk\.)")
# Constants that older versions saved with the weights.
_BUFFERS = re.compile(r"(^|\.)(position_ids|attn_mask)$")
# OpenCLIP's names to Hugging Face's, one after the other.
_RENAMED = (
    (r"^text\.", ""),
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"\.attn\.", ".self_attn."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.proj$", "visual_projection.weight"),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^text_projection$", "text_projection.weight"),
)
_FROM_THE_RIGHT = ("visual.proj", "text_projection", "text.text_projection")
# Our modules and parameters to Hugging Face's; a tuple: parts that are joined.
_BLOCKS = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attention/qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention/proj": "self_attn.out_proj",
    "mlp/fc1": "mlp.fc1",
    "mlp/fc2": "mlp.fc2",
}
_POOL = {
    "pool/query": "vision_model.head.attention.q_proj",
    "pool/key": "vision_model.head.attention.k_proj",
    "pool/value": "vision_model.head.attention.v_proj",
    "pool/proj": "vision_model.head.attention.out_proj",
    "pool/norm": "vision_model.head.layernorm",
    "pool/mlp/fc1": "vision_model.head.mlp.fc1",
    "pool/mlp/fc2": "vision_model.head.mlp.fc2",
}
_VISION = {
    "patch_embed": "vision_model.embeddings.patch_embedding",
    "pre_norm": "vision_model.pre_layrnorm",
    "norm": "vision_model.post_layernorm",
    "projection": "visual_projection",
    **_POOL,
}
_TEXT = {"norm": "text_model.final_layer_norm", "projection": "text_projection"}
_VISION_PARAMETERS = {
    "cls_token": "vision_model.embeddings.class_embedding",
    "pos_embed": "vision_model.embeddings.position_embedding.weight",
    "pool/probe": "vision_model.head.probe",
}
_TEXT_PARAMETERS = {
    "token_embed": "text_model.embeddings.token_embedding.weight",
    "pos_embed": "text_model.embeddings.position_embedding.weight",
    "logit_scale": "logit_scale",
    "logit_bias": "logit_bias",
}
_LEAVES = {"scale": "weight", "kernel": "weight", "bias": "bias"}


def is_clip(tensors: Mapping[str, Any]) -> bool:
    """Whether tensors are those of CLIP or SigLIP, under either names."""
    return is_openclip(tensors) or any(map(_HUGGINGFACE.match, tensors))


def is_openclip(tensors: Mapping[str, Any]) -> bool:
    """Whether they have OpenCLIP's names."""
    return any(map(_OPENCLIP.match, tensors))


def to_one_dialect(tensors: Mapping[str, np.ndarray]) -> tuple[Tensors, list[str]]:
    """Gives tensors Hugging Face's names, with queries, keys and values apart.

    Returns:
      The tensors, and the names of constants that were left out.

    Raises:
      ValueError: if the image tower is one of timm, or two tensors get the same name.
    """
    if any(name.startswith("visual.trunk.") for name in tensors):
        raise ValueError(
            "its image tower has timm's names inside of OpenCLIP's (visual.trunk.…), which are not "
            "known; use Hugging Face's file of the same model (google/siglip-…)"
        )
    left_out = sorted(name for name in tensors if _BUFFERS.search(name))
    renamed = is_openclip(tensors)
    result: Tensors = {}
    for name, tensor in tensors.items():
        if name in left_out:
            continue
        plain, value = name, tensor
        if renamed:
            value = tensor.T if name in _FROM_THE_RIGHT and tensor.ndim == 2 else tensor
            for pattern, new in _RENAMED:
                plain = re.sub(pattern, new, plain)
        plain = plain.replace("text_model.head.", "text_projection.")
        for part, values in _unpacked(plain, value).items():
            if part in result:
                raise ValueError(f"it names {part} twice, the second time as {name}")
            result[part] = values
    return result, left_out


def _unpacked(name: str, tensor: np.ndarray) -> Tensors:
    """A packed projection of queries, keys and values as three; anything else as it is."""
    match = re.fullmatch(r"(.*\.)in_proj_(weight|bias)", name)
    if not match or not tensor.ndim or tensor.shape[0] % 3:
        return {name: tensor}
    thirds = np.split(tensor, 3)
    return {f"{match[1]}{x}_proj.{match[2]}": y for x, y in zip("qkv", thirds, strict=True)}


def vision_variables(tensors: Mapping[str, np.ndarray], like: Variables) -> Variables:
    """Our variables {"params": {"backbone": …}} of an image tower.

    Args:
      tensors: those of `to_one_dialect` that `is_of_vision`.
      like: the variables as shapes.

    Raises:
      ValueError: if a tensor is missing, left over or of another shape (lists all of them).
    """
    return _convert(tensors, like, 2, "vision_model", _VISION, _VISION_PARAMETERS)


def text_variables(tensors: Mapping[str, np.ndarray], like: Variables) -> Variables:
    """As `vision_variables`, of a text tower {"params": …}."""
    return _convert(tensors, like, 1, "text_model", _TEXT, _TEXT_PARAMETERS)


def is_of_vision(name: str) -> bool:
    """Whether a tensor of `to_one_dialect` belongs to the image tower."""
    return name.startswith(("vision_model.", "visual"))


def _convert(
    tensors: Mapping[str, np.ndarray],
    like: Variables,
    depth: int,
    tower: str,
    modules: Mapping[str, str],
    parameters: Mapping[str, str],
) -> Variables:
    """Our variables; the first `depth` names of a path only wrap the tower."""
    wanted: dict[Path, Any] = flatten_dict(like)
    problems, used, result = [], set(), {}
    for path, leaf in wanted.items():
        names = _names(path[depth:], leaf.shape, tower, modules, parameters)
        flat = [name for layer in names for name in layer]
        used.update(flat)
        missing = [name for name in flat if name not in tensors]
        if missing:
            problems += [f"missing {name}" for name in missing]
            continue
        parts = [[_ours(tensors[name], path[-1]) for name in layer] for layer in names]
        shapes = {tuple(part.shape) for layer in parts for part in layer}
        joined = _joined(parts, path[depth] == "blocks")
        if joined is None or _without_ones(joined.shape) != _without_ones(leaf.shape):
            problems.append(f"shape of {flat[0]}: the file has {shapes}, the network {leaf.shape}")
            continue
        result[path] = np.array(joined.reshape(leaf.shape), np.float32)
    problems += [f"unused {name}" for name in sorted(tensors.keys() - used)]
    if problems:
        raise ValueError(
            f"the {tower} ({len(tensors)} tensors) does not fit:\n  " + "\n  ".join(problems)
        )
    return unflatten_dict(result)


def _names(
    path: Path,
    shape: tuple[int, ...],
    tower: str,
    modules: Mapping[str, str],
    parameters: Mapping[str, str],
) -> list[tuple[str, ...]]:
    """Hugging Face's names of one variable: for each layer its parts."""
    whole = "/".join(path)
    if whole in parameters:
        return [(parameters[whole],)]
    leaf = _LEAVES[path[-1]]
    if path[0] != "blocks":
        return [(f"{modules['/'.join(path[:-1])]}.{leaf}",)]
    parts = _BLOCKS["/".join(path[1:-1])]
    each = (parts,) if isinstance(parts, str) else parts
    layers = range(shape[0])
    return [tuple(f"{tower}.encoder.layers.{i}.{part}.{leaf}" for part in each) for i in layers]


def _ours(tensor: np.ndarray, leaf: str) -> np.ndarray:
    """A tensor in our layout: [in, out] matrices and [h, w, in, out] convolutions."""
    if leaf != "kernel":
        return tensor
    return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T


def _joined(parts: list[list[np.ndarray]], stacked: bool) -> np.ndarray | None:
    """Parts side by side, layers stacked; None if their shapes do not allow it."""
    try:
        layers = [layer[0] if len(layer) == 1 else np.concatenate(layer, -1) for layer in parts]
        return np.stack(layers) if stacked else layers[0]
    except ValueError:
        return None


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)
