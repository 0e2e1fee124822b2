"""A backbone with its projection heads, and the builders that turn a config into one."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dino_jax.devices.kernels.shared_weights import SharedWeights
from dino_jax.models.crops import Crops
from dino_jax.models.heads import DinoHead
from dino_jax.models.layers import FFNS
from dino_jax.models.position import POSITION_KERNELS
from dino_jax.models.resnet import DEPTHS, ResNet
from dino_jax.models.stochastic_depth import DROP_PATH_KINDS, DROP_PATH_SCHEDULES
from dino_jax.models.vit import REMAT_POLICIES, SIZES, Features, VisionTransformer


class Network(nn.Module):
    """One branch of the self-distillation; student and teacher are two variable trees of it.

    What a pass does beyond its numbers follows from what the caller hands over: a "drop_path" RNG
    turns stochastic depth on, a mutable "batch_stats" collection makes BatchNorm use and track the
    statistics of the batch.

    Attributes:
      backbone: a module with a `patch_size` that maps images to {"cls": [B, D],
        "patches": [B, N, D]}, a ViT with registers also to {"registers": [B, R, D]}.
      heads: projection heads by name, each maps [..., D] to [..., K] logits.
      mean: of every channel, for images in [0, 1].
      std: of every channel, for images in [0, 1].
      weights: how the devices of a mesh share them, see `placement.fit_to_mesh`.
    """

    backbone: Any
    heads: Mapping[str, nn.Module]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: SharedWeights | None = None

    def __call__(self, images: jax.Array, masks: jax.Array | None = None) -> Features:
        """Features of images.

        Args:
          images: [B, H, W, C], uint8 or already normalised floats.
          masks: bool [B, N], patches that the mask token of a ViT replaces.
        """
        return self.encode_groups([Crops(images, masks)])[0]

    def encode_groups(self, groups: Sequence[Crops]) -> list[Features]:
        """Features of crops of several sizes, as `__call__` gives them for one."""
        normalized = [crops._replace(images=self.normalize(crops.images)) for crops in groups]
        return self.backbone.encode_groups(normalized)

    def project(self, head: str, x: jax.Array) -> jax.Array:
        """[..., D] features to [..., K] logits of one head."""
        module: Any = self.heads[head]
        if self.weights is None or not self.runs_alone(head):
            return module(x)
        alone, params = module.clone(parent=None, name=None), module.variables["params"]
        logits = self.weights.run(
            lambda params, x: alone.apply({"params": params}, x), params, (x,), jnp.float32
        )
        return logits[: len(x)]

    def runs_alone(self, head: str) -> bool:
        """Whether every device can run a head on its own features: BatchNorm looks at all."""
        return not self.heads[head].batch_norm

    def intermediate(self, images: jax.Array, layers, normalize: bool = True):
        """Features after the given blocks of a ViT; see `VisionTransformer.intermediate`."""
        return self._vit().intermediate(self.normalize(images), layers, normalize)

    def attention(self, images: jax.Array, layer: int = -1) -> jax.Array:
        """Attention weights of one block of a ViT; see `VisionTransformer.attention`."""
        return self._vit().attention(self.normalize(images), layer)

    def _vit(self) -> VisionTransformer:
        if not isinstance(self.backbone, VisionTransformer):
            raise ValueError(
                f"blocks and attention are those of a ViT, this is a {type(self.backbone).__name__}"
            )
        return self.backbone

    def normalize(self, images: jax.Array) -> jax.Array:
        """Maps uint8 to zero mean and unit variance; floats are taken as normalised already."""
        if images.dtype != jnp.uint8:
            return images
        mean, std = jnp.asarray(self.mean), jnp.asarray(self.std)
        return (images.astype(jnp.float32) / 255.0 - mean) / std

    def init_all(self, images: jax.Array) -> None:
        """Touches every parameter; call as `network.init(rng, images, method="init_all")`."""
        features = self(images)
        for head in self.heads.values():
            head(features["cls"])


def build_network(config: Any) -> Network:
    """Builds the network that `config.network` describes.

    Raises:
      ValueError: if a name is unknown or sizes do not fit together.
    """
    dtype = _lookup("dtype", config.dtype, {"float32": jnp.float32, "bfloat16": jnp.bfloat16})
    backbone = _lookup("backbone", config.backbone.kind, BACKBONES)(config.backbone, dtype)
    heads = {name: build_head(head, dtype) for name, head in config.heads.items()}
    if not len(config.mean) == len(config.std) == config.backbone.in_channels:
        raise ValueError(
            f"network.mean ({len(config.mean)} values) and network.std ({len(config.std)} values) "
            f"need one value for each of the {config.backbone.in_channels} channels of "
            "network.backbone.in_channels"
        )
    return Network(backbone, heads, tuple(config.mean), tuple(config.std))


def build_vit(config: Any, dtype: jnp.dtype) -> VisionTransformer:
    """Builds a ViT; embed_dim, depth and num_heads that are None come from the named size.

    Raises:
      ValueError: if a name is unknown or a number is out of range.
    """
    _check_keys(config)
    size = _lookup("backbone.size", config.size, SIZES)
    height, width = config.image_size
    vit = VisionTransformer(
        embed_dim=size.embed_dim if config.embed_dim is None else config.embed_dim,
        depth=size.depth if config.depth is None else config.depth,
        num_heads=size.num_heads if config.num_heads is None else config.num_heads,
        patch_size=config.patch_size,
        image_size=(height, width),
        in_channels=config.in_channels,
        mlp_ratio=config.mlp_ratio,
        ffn=config.ffn,
        layer_scale=config.layer_scale,
        registers=config.registers,
        has_mask_token=config.has_mask_token,
        token_std=config.token_std,
        qkv_bias=config.qkv_bias,
        proj_bias=config.proj_bias,
        ffn_bias=config.ffn_bias,
        norm_epsilon=config.norm_epsilon,
        drop_path_rate=config.drop_path_rate,
        drop_path_schedule=config.drop_path_schedule,
        drop_path_kind=config.drop_path_kind,
        drop_path_group=config.drop_path_group,
        position_kernel=config.position_kernel,
        dtype=dtype,
        remat=config.remat,
        scan_unroll=config.scan_unroll,
    )
    _check_vit(vit)
    return vit


def _check_keys(config: Any) -> None:
    """Raises a ValueError if the config of a ViT is older than one of its keys."""
    fields = {field.name for field in dataclasses.fields(VisionTransformer)}
    needed = fields - {"parent", "name", "dtype", "branches"} | {"size"}
    missing = sorted(needed - set(config))
    if missing:
        raise ValueError(
            f"network.backbone has no {', '.join(missing)}: the config is older than this version; "
            "add what configs/vits16_vanilla.py says, in the config.json of a workdir"
        )


def _check_vit(vit: VisionTransformer) -> None:
    """Raises a ValueError if the attributes do not fit together."""
    _check_name("backbone.ffn", vit.ffn, FFNS)
    _check_name("backbone.position_kernel", vit.position_kernel, POSITION_KERNELS)
    _check_name("backbone.remat", vit.remat, REMAT_POLICIES)
    _check_name("backbone.drop_path_kind", vit.drop_path_kind, DROP_PATH_KINDS)
    _check_name("backbone.drop_path_schedule", vit.drop_path_schedule, DROP_PATH_SCHEDULES)
    dim, heads, (height, width) = vit.embed_dim, vit.num_heads, vit.image_size
    if dim % heads:
        raise ValueError(f"embed_dim ({dim}) must be a multiple of num_heads ({heads})")
    if min(height, width) < vit.patch_size:
        raise ValueError(
            f"image_size {height} x {width} is smaller than one patch of {vit.patch_size} pixels"
        )
    if vit.depth < 1 or not 0 <= vit.drop_path_rate < 1:
        raise ValueError(
            f"depth ({vit.depth}) must be at least 1 and drop_path_rate ({vit.drop_path_rate}) "
            "in [0, 1)"
        )
    if min(vit.registers, vit.layer_scale, vit.token_std, vit.scan_unroll) < 0:
        raise ValueError(
            f"registers ({vit.registers}), layer_scale ({vit.layer_scale}), token_std "
            f"({vit.token_std}) and scan_unroll ({vit.scan_unroll}) must not be negative"
        )
    if vit.drop_path_group is not None and vit.drop_path_group < 1:
        raise ValueError(f"drop_path_group ({vit.drop_path_group}) must be at least 1, or None")
    if vit.drop_path_kind == "subset" and vit.drop_path_schedule != "uniform":
        raise ValueError(
            "drop_path_kind='subset' runs every block on equally many samples: it needs "
            f"drop_path_schedule='uniform', got {vit.drop_path_schedule!r}"
        )


def build_resnet(config: Any, dtype: jnp.dtype) -> ResNet:
    """Builds a ResNet.

    Args:
      config: ConfigDict with kind ("resnet"), size ("50" or "101"), in_channels, and depths (blocks
        per stage; None: as `size`) and width (channels of the stem, officially 64). There are no
        other fields.
      dtype: of the activations.

    Raises:
      ValueError: if the size is unknown or a number is out of range.
    """
    size = _lookup("backbone.size", config.size, DEPTHS)
    depths = tuple(size if config.depths is None else config.depths)
    if not depths or min(*depths, config.width) < 1:
        raise ValueError(
            f"depths {depths} and width ({config.width}) of a ResNet must be at least 1"
        )
    return ResNet(depths, config.width, config.in_channels, dtype)


BACKBONES = {"vit": build_vit, "resnet": build_resnet}


def build_head(config: Any, dtype: jnp.dtype) -> DinoHead:
    """Builds a projection head.

    Raises:
      ValueError: if a number is smaller than 1.
    """
    for name in ("out_dim", "hidden_dim", "bottleneck_dim", "layers"):
        if config[name] < 1:
            raise ValueError(f"network.heads: {name} must be at least 1, got {config[name]}")
    return DinoHead(
        out_dim=config.out_dim,
        hidden_dim=config.hidden_dim,
        bottleneck_dim=config.bottleneck_dim,
        layers=config.layers,
        batch_norm=config.batch_norm,
        train_gain=config.train_gain,
        dtype=dtype,
    )


def _lookup(what: str, name: str, table: dict):
    _check_name(what, name, table)
    return table[name]


def _check_name(what: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise ValueError(f"unknown network.{what} {name!r}; known: {sorted(known)}")
