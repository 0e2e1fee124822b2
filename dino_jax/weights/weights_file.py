"""A network from a file of weights of any known code base."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from dino_jax.config.section import section
from dino_jax.data.view import USUAL_VIEW, View
from dino_jax.models.build import NetworkConfig, build_network
from dino_jax.models.network import Network
from dino_jax.models.rope import Config as Rope
from dino_jax.weights.architecture import HEAD_DIM, infer_backbone, infer_head
from dino_jax.weights.clip_file import TextPart, read_clip
from dino_jax.weights.clip_names import is_clip
from dino_jax.weights.dialects import Official, to_official
from dino_jax.weights.mae_names import HEAD_DIM as DECODER_HEAD_DIM
from dino_jax.weights.mae_names import has_decoder, infer_decoder
from dino_jax.weights.moco_names import infer_mlp_head
from dino_jax.weights.model_card import ModelCard, read_model_card
from dino_jax.weights.state_dict import SavedWeights, read_weights
from dino_jax.weights.torch_names import Variables, from_torch, split_state_dict

BACKBONE = "backbone"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OFFICIAL_SIZE = 224  # pixels, the usual evaluation size of the official models


class NetworkFromFile(NamedTuple):
    """One network of a file.

    Attributes:
      config: the section `network` of our config that describes it.
      network: network that it describes.
      variables: variables of the network, float32.
      centers: [K] by objective, of a training checkpoint.
      licence: license of the weights, and how it is known.
      lines: lines for the console: what it is, what was assumed and what was left out.
      view: how an image becomes a square.
      size: side of that square in pixels, if the file or one beside it says so; else 0.
      text: the text tower of CLIP or SigLIP.
    """

    config: dict[str, Any]
    network: Network
    variables: Variables
    centers: dict[str, np.ndarray]
    licence: str
    lines: list[str]
    view: View = USUAL_VIEW
    size: int = 0
    text: TextPart | None = None

    @property
    def image_size(self) -> int:
        """Pixels at which the model is usually evaluated: the size it was made for, up to 224."""
        if self.size:
            return self.size
        sizes = self.config["backbone"].get("image_size", (OFFICIAL_SIZE,))
        return min(OFFICIAL_SIZE, *sizes)


def read_network(
    path: epath.PathLike,
    role: str = "",
    num_heads: int | None = None,
    licence: str = "",
    with_heads: bool = True,
) -> NetworkFromFile:
    """Reads a network; every tensor of it is accounted for.

    Args:
      path: path of the file; .safetensors, .pth, .pt or .bin with official names, those of Hugging
        Face's transformers or of timm; CLIP and SigLIP with those of transformers or OpenCLIP.
      role: "teacher" or "student" of a training checkpoint; "": the teacher, if there are two.
      num_heads: attention heads; None: as config.json beside the file says, or 64 channels each.
      licence: license of the weights, if the files do not state it.
      with_heads: whether to read projection heads, too.

    Raises:
      OSError: if there is no such file, or it cannot be read.
      ValueError: if it is damaged, holds no network that is known, or a tensor of it is missing,
        left over or of another shape (lists all of them).
    """
    saved, card = read_weights(path), read_model_card(path, licence)
    tensors = _choose_network(saved, role, path)
    if is_clip(tensors):
        return _of_clip(path, tensors, num_heads, card.licence)
    try:
        official = to_official(tensors, card.by_timm, card.rope)
        parts = split_state_dict(official.tensors, {"params": {}})
        implicit = official.implicit(num_heads or card.num_heads, card.norm_epsilon)
        backbone_tensors = parts.pop(BACKBONE, {})
        backbone = infer_backbone(backbone_tensors, implicit)
        if not with_heads:
            parts = {}
        heads = {
            _head_name(part): infer_decoder(x, card.decoder_heads)
            if has_decoder(tensors)
            else infer_mlp_head(part, x) or infer_head(part, x)
            for part, x in parts.items()
        }
        config = {
            "dtype": "float32",
            "mean": card.mean or IMAGENET_MEAN,
            "std": card.std or IMAGENET_STD,
            "backbone": backbone,
            "heads": heads,
        }
        typed = section("config.network", config, NetworkConfig)
        network = build_network(typed)
        wanted = official.tensors if with_heads else backbone_tensors
        variables = from_torch(wanted, abstract_variables(network, backbone))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    lines = [
        f"{path}: {official.names} names, {len(tensors)} tensors",
        *_describe_backbone(backbone, implicit.num_heads, card.norm_epsilon),
        *(_describe_head(name, head) for name, head in heads.items()),
        *_describe_rest(saved, role, official, card),
    ]
    return NetworkFromFile(
        dataclasses.asdict(typed), network, variables, saved.centers, card.licence, lines
    )


def _of_clip(
    path: epath.PathLike, tensors: dict[str, np.ndarray], num_heads: int | None, licence: str
) -> NetworkFromFile:
    if num_heads is not None:
        raise ValueError(
            f"{path}: --num-heads is not for CLIP and SigLIP, whose config.json says it"
        )
    try:
        found = read_clip(path, tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    rest = (licence, found.lines, found.view, found.size, found.text)
    return NetworkFromFile(found.config, found.network, found.variables, {}, *rest)


def abstract_variables(network: Network, backbone: Mapping[str, Any]) -> Variables:
    """The variables of a network as shapes.

    Args:
      network: network with its heads.
      backbone: its section of the config.
    """
    height, width = backbone.get("image_size", (64, 64))  # a ResNet takes any
    image = jnp.zeros((1, height, width, backbone["in_channels"]))
    return jax.eval_shape(partial(network.init, method="init_all"), jax.random.key(0), image)


def _choose_network(saved: SavedWeights, role: str, path: epath.PathLike) -> dict[str, np.ndarray]:
    if role and role not in saved.networks:
        raise ValueError(f"{path} holds no {role}, but: {', '.join(sorted(saved.networks))}")
    return saved.networks[role or saved.main]


def _head_name(part: str) -> str:
    """The name of our head for "head", "dino_head", "ibot_head" …"""
    return part.removesuffix("head").removesuffix("_") or "dino"


def _describe_backbone(
    backbone: Mapping[str, Any], num_heads: int | None, norm_epsilon: float | None
) -> list[str]:
    if backbone["kind"] == "resnet":
        return [f"  backbone: ResNet, {backbone['depths']} blocks, width {backbone['width']}"]
    if backbone["kind"] == "convnext":
        return [f"  backbone: ConvNeXt, {backbone['depths']} blocks, width {backbone['width']}"]
    height, width = backbone["image_size"]
    assumed = f" (assumed: {HEAD_DIM} channels each)" if num_heads is None else ""
    by_default = " (assumed: the default of that code)" if norm_epsilon is None else ""
    scale = "LayerScale" if backbone["layer_scale"] else "no LayerScale"
    positions, sizes = f"positions for {height} x {width}", backbone.get("position_kernel")
    if "rope" in backbone:
        positions, sizes = "rotary positions", _describe_rope(backbone["rope"])
    return [
        f"  backbone: ViT, {backbone['depth']} blocks of width {backbone['embed_dim']}, "
        f"{backbone['num_heads']} attention heads{assumed}",
        f"            patches of {backbone['patch_size']} pixels, {positions}, "
        f"{backbone['registers']} registers, {backbone['ffn']}, {scale}",
        f"            other sizes: {sizes}; norm_epsilon {backbone['norm_epsilon']}{by_default}",
    ]


def _describe_rope(rope: Rope) -> str:
    periods = f"periods of base {rope.base:g}"
    if rope.min_period is not None:
        periods = f"periods of {rope.min_period:g} to {rope.max_period:g}"
    rounded = ", rounded to bfloat16 as in released files"
    return periods + (rounded if rope.precision != "float32" else "")


def _describe_head(name: str, head: Mapping[str, Any]) -> str:
    if head["kind"] == "decoder":
        return (
            f"  head {name}: decoder, {head['depth']} blocks of width {head['embed_dim']}, "
            f"{head['num_heads']} attention heads (assumed: {DECODER_HEAD_DIM} channels each)"
        )
    if head["kind"] == "mlp":
        return (
            f"  head {name}: MLP of {head['of']}, {head['layers']} layers, {head['hidden_dim']} "
            f"wide, {head['out_dim']} outputs"
        )
    gain = "trained gain" if head["train_gain"] else "gain 1"
    return (
        f"  head {name}: {head['layers']} layers, {head['hidden_dim']} wide, bottleneck "
        f"{head['bottleneck_dim']}, {head['out_dim']:,} prototypes, {gain}"
    )


def _describe_rest(
    saved: SavedWeights, role: str, official: Official, card: ModelCard
) -> list[str]:
    lines = [f"  center {name}: {len(x):,} numbers" for name, x in sorted(saved.centers.items())]
    if card.mean is None:
        lines.append("  mean and std of the pixels: ImageNet's (assumed)")
    rest = [f"{count} tensors of the {section}" for section, count in saved.left_out.items()]
    rest += [f"the {other}" for other in sorted(saved.networks) if other != (role or saved.main)]
    rest += official.left_out
    return lines + ([f"  left out: {', '.join(rest)}"] if rest else [])
