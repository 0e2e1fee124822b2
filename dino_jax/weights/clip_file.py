"""Both towers of a file of CLIP's or SigLIP's weights."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from dino_jax.config.section import section
from dino_jax.data.view import View
from dino_jax.models import text_tower
from dino_jax.models.build import NetworkConfig, build_network
from dino_jax.models.network import Network
from dino_jax.weights.clip_names import (
    is_of_vision,
    is_openclip,
    text_variables,
    to_one_dialect,
    vision_variables,
)
from dino_jax.weights.clip_settings import ClipSettings, Pixels, read_pixels, read_settings
from dino_jax.weights.torch_names import Variables

Shapes = Mapping[str, tuple[int, ...]]


class TextPart(NamedTuple):
    """The text tower of a file.

    Attributes:
      config: its section, see `text_tower.Config`, and "pad_token".
      tower: the tower.
      variables: its float32 variables.
    """

    config: dict[str, Any]
    tower: text_tower.TextTower
    variables: Variables


class ClipFile(NamedTuple):
    """What a file holds, and those beside it say.

    Attributes:
      config: the section `network`.
      network: image tower.
      variables: of the image tower, float32.
      text: text tower.
      view: how an image becomes a square.
      size: side of that square in pixels.
      lines: about it, for the console.
    """

    config: dict[str, Any]
    network: Network
    variables: Variables
    text: TextPart
    view: View
    size: int
    lines: list[str]


def read_clip(path: epath.PathLike, tensors: Mapping[str, np.ndarray]) -> ClipFile:
    """Reads both towers; every tensor is accounted for.

    Args:
      path: of the file; config.json and preprocessor_config.json, or open_clip_config.json, must
        lie beside it.
      tensors: those of the file.

    Raises:
      OSError: if a file beside it is missing.
      ValueError: if a tensor is missing, left over or of another shape (lists all of them), or a
        file beside it says something that is not known.
    """
    folder, openclip = epath.Path(path).expanduser().parent, is_openclip(tensors)
    settings, pixels = read_settings(folder, openclip), read_pixels(folder, openclip)
    plain, left_out = to_one_dialect(tensors)
    vision = {name: x for name, x in plain.items() if is_of_vision(name)}
    rest = {name: x for name, x in plain.items() if not is_of_vision(name)}
    network_config = _network_config(_shapes(vision), settings, pixels)
    typed = section("config.network", network_config, NetworkConfig)
    network, text = build_network(typed), _read_text(rest, settings)
    height, width = typed.backbone.image_size
    image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    like = jax.eval_shape(partial(network.init, method="init_all"), jax.random.key(0), image)
    names = "OpenCLIP" if openclip else "Hugging Face"
    return ClipFile(
        dataclasses.asdict(typed),
        network,
        vision_variables(vision, like),
        text,
        pixels.view,
        pixels.size,
        [
            f"{path}: {names} names of {settings.kind}, {len(tensors)} tensors",
            *_describe(typed.backbone, text.config, pixels),
            *([f"  left out: {', '.join(left_out)}"] if left_out else []),
        ],
    )


def _shapes(tensors: Mapping[str, np.ndarray]) -> Shapes:
    return {name: x.shape for name, x in tensors.items()}


def _network_config(shapes: Shapes, settings: ClipSettings, pixels: Pixels) -> dict[str, Any]:
    """The section `network`, its sizes read off the tensors."""
    embeddings = "vision_model.embeddings"
    width, channels, patch, patch_width = _shape(shapes, f"{embeddings}.patch_embedding.weight", 4)
    positions, _ = _shape(shapes, f"{embeddings}.position_embedding.weight", 2)
    is_clip = settings.kind == "clip"
    side = round((positions - is_clip) ** 0.5)
    if side * side != positions - is_clip or patch != patch_width or channels != 3:
        raise ValueError(
            f"{positions} positions of patches of {patch} x {patch_width} pixels and {channels} "
            "channels: only square tables of square patches of three channels are known"
        )
    backbone = {
        "kind": settings.kind,
        "width": width,
        "layers": _count_layers(shapes),
        "num_heads": settings.vision.num_heads,
        "hidden_dim": _shape(shapes, "vision_model.encoder.layers.0.mlp.fc1.weight", 2)[0],
        "patch_size": patch,
        "image_size": (side * patch, side * patch),
        "in_channels": channels,
        "activation": settings.vision.activation,
        "norm_epsilon": settings.vision.norm_epsilon,
    }
    if is_clip:
        backbone["embed_dim"] = _shape(shapes, "visual_projection.weight", 2)[0]
    mean_std = {"mean": pixels.mean, "std": pixels.std}
    return {"dtype": "float32", **mean_std, "backbone": backbone, "heads": {}}


def _read_text(tensors: Mapping[str, np.ndarray], settings: ClipSettings) -> TextPart:
    shapes, embeddings = _shapes(tensors), "text_model.embeddings"
    vocabulary, width = _shape(shapes, f"{embeddings}.token_embedding.weight", 2)
    length, _ = _shape(shapes, f"{embeddings}.position_embedding.weight", 2)
    given = {
        "embed_dim": _shape(shapes, "text_projection.weight", 2)[0],
        "width": width,
        "layers": _count_layers(shapes),
        "num_heads": settings.text.num_heads,
        "hidden_dim": _shape(shapes, "text_model.encoder.layers.0.mlp.fc1.weight", 2)[0],
        "vocabulary": vocabulary,
        "length": length,
        "activation": settings.text.activation,
        "norm_epsilon": settings.text.norm_epsilon,
        "causal": settings.kind == "clip",
        "pooling": settings.pooling,
        "end_token": settings.end_token,
        "pad_token": settings.pad_token,
        "projection_bias": settings.kind == "siglip",
        "logit_bias": settings.kind == "siglip",
    }
    typed = section("text", given, text_tower.Config)
    tower = text_tower.build_text(typed)
    like = abstract_text(tower)
    return TextPart(dataclasses.asdict(typed), tower, text_variables(tensors, like))


def abstract_text(tower: text_tower.TextTower) -> Variables:
    """The variables of a text tower as shapes."""
    ids = jax.ShapeDtypeStruct((1, tower.length), jnp.int32)
    return jax.eval_shape(partial(tower.init, method="init_all"), jax.random.key(0), ids)


def _shape(shapes: Shapes, name: str, axes: int) -> tuple[int, ...]:
    found = shapes.get(name)
    if found is None or len(found) != axes:
        what = "is missing" if found is None else f"has the shape {found}"
        raise ValueError(
            f"{name} {what}: a CLIP or SigLIP has both towers, images and texts; it has "
            f"{len(shapes)} tensors like {sorted(shapes)[:3]}"
        )
    return found


def _count_layers(shapes: Shapes) -> int:
    ending = ".mlp.fc1.weight"
    return sum(".encoder.layers." in name and name.endswith(ending) for name in shapes)


def _describe(backbone: Any, text: Mapping[str, Any], pixels: Pixels) -> list[str]:
    height, width = backbone.image_size
    fit = {"crop": "the central square", "squeeze": "the whole image, squeezed"}[pixels.view.fit]
    return [
        f"  images: {backbone.layers} blocks of width {backbone.width}, {backbone.num_heads} "
        f"attention heads, {backbone.activation}, patches of {backbone.patch_size} pixels, "
        f"positions for {height} x {width}",
        f"          {fit} of {pixels.size} pixels, {pixels.view.resampling}",
        f"  texts: {text['layers']} blocks of width {text['width']}, {text['num_heads']} attention "
        f"heads, {text['activation']}, up to {text['length']} of {text['vocabulary']:,} tokens, "
        f"read at the {text['pooling']}",
    ]
