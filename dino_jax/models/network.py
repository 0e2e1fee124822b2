"""A backbone with its projection heads, and the builders that turn a config into one."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dino_jax.models.heads import DinoHead
from dino_jax.models.position import POSITION_KERNELS
from dino_jax.models.vit import REMAT_POLICIES, SIZES, Features, VisionTransformer


class Network(nn.Module):
    """One branch of the self-distillation; student and teacher are two variable trees of it.

    What a pass does beyond its numbers follows from what the caller hands over: a "drop_path" RNG
    turns stochastic depth on, a mutable "batch_stats" collection makes BatchNorm use and track the
    statistics of the batch.

    Attributes:
      backbone: maps images to {"cls": [B, D], "patches": [B, N, D]}, a ViT with registers also to
        {"registers": [B, R, D]}.
      heads: projection heads by name, each maps [..., D] to [..., K] logits.
      mean: of every channel, for images in [0, 1].
      std: of every channel, for images in [0, 1].
    """

    backbone: nn.Module
    heads: Mapping[str, nn.Module]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(
        self,
        images: jax.Array,
        masks: jax.Array | None = None,
        drop_path_permutations: jax.Array | None = None,
    ) -> Features:
        """Features of images.

        Args:
          images: [B, H, W, C], uint8 or already normalised floats.
          masks: bool [B, N], patches that the mask token of a ViT replaces.
          drop_path_permutations: repeats a recorded draw of stochastic depth in a ViT, see
            `stochastic_depth.choose_subsets`.
        """
        options = {"masks": masks, "drop_path_permutations": drop_path_permutations}
        given = {name: value for name, value in options.items() if value is not None}
        return self.backbone(self.normalize(images), **given)

    def project(self, head: str, x: jax.Array) -> jax.Array:
        """[..., D] features to [..., K] logits of one head."""
        return self.heads[head](x)

    def intermediate(self, images: jax.Array, layers, normalize: bool = True):
        """Features after the given blocks; see `VisionTransformer.intermediate`."""
        return self.backbone.intermediate(self.normalize(images), layers, normalize)

    def attention(self, images: jax.Array, layer: int = -1) -> jax.Array:
        """Attention weights of one block; see `VisionTransformer.attention`."""
        return self.backbone.attention(self.normalize(images), layer)

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
    backbone = _lookup("backbone", config.backbone.kind, {"vit": build_vit})(config.backbone, dtype)
    heads = {name: build_head(head, dtype) for name, head in config.heads.items()}
    if not len(config.mean) == len(config.std) == config.backbone.in_channels:
        raise ValueError(
            f"network.mean ({len(config.mean)} values) and network.std ({len(config.std)} values) "
            f"need one value for each of the {config.backbone.in_channels} channels of "
            "network.backbone.in_channels"
        )
    return Network(backbone, heads, tuple(config.mean), tuple(config.std))


def build_vit(config: Any, dtype: jnp.dtype) -> VisionTransformer:
    """Builds a ViT; embed_dim, depth and num_heads that are None come from the named size."""
    size = _lookup("backbone.size", config.size, SIZES)
    embed_dim = size.embed_dim if config.embed_dim is None else config.embed_dim
    num_heads = size.num_heads if config.num_heads is None else config.num_heads
    depth = size.depth if config.depth is None else config.depth
    _lookup("backbone.position_kernel", config.position_kernel, POSITION_KERNELS)
    _lookup("backbone.remat", config.remat, REMAT_POLICIES)
    height, width = config.image_size
    if embed_dim % num_heads:
        raise ValueError(f"embed_dim ({embed_dim}) must be a multiple of num_heads ({num_heads})")
    if min(height, width) < config.patch_size:
        raise ValueError(
            f"image_size {height} x {width} is smaller than one patch of {config.patch_size} pixels"
        )
    if depth < 1 or not 0 <= config.drop_path_rate < 1:
        raise ValueError(
            f"depth ({depth}) must be at least 1 and drop_path_rate ({config.drop_path_rate}) "
            "in [0, 1)"
        )
    return VisionTransformer(
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        patch_size=config.patch_size,
        image_size=(height, width),
        in_channels=config.in_channels,
        mlp_ratio=config.mlp_ratio,
        drop_path_rate=config.drop_path_rate,
        position_kernel=config.position_kernel,
        dtype=dtype,
        remat=config.remat,
        scan_unroll=config.scan_unroll,
    )


def build_head(config: Any, dtype: jnp.dtype) -> DinoHead:
    """Builds a projection head."""
    if config.layers < 1:
        raise ValueError(f"a head needs at least 1 layer, got {config.layers}")
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
    if name not in table:
        raise ValueError(f"unknown network.{what} {name!r}; known: {sorted(table)}")
    return table[name]
