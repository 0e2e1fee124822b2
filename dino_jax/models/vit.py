"""Vision Transformer (arXiv:2010.11929) as in DINO (arXiv:2104.14294): any patch and image size."""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dino_jax.models.layers import Block, Dtype, PatchEmbed, layer_norm, linear_init
from dino_jax.models.position import Grid, resize_position_embedding

Features = dict[str, jax.Array]


class Size(NamedTuple):
    embed_dim: int
    depth: int
    num_heads: int


SIZES = {
    "tiny": Size(192, 12, 3),  # DeiT, arXiv:2012.12877, Table 1
    "small": Size(384, 12, 6),  # DeiT, arXiv:2012.12877, Table 1
    "base": Size(768, 12, 12),  # ViT, arXiv:2010.11929, Table 1
    "large": Size(1024, 24, 16),  # ViT, arXiv:2010.11929, Table 1
    "giant": Size(1536, 40, 24),  # DINOv2's ViT-g, arXiv:2304.07193, Table 17
}

# What the backward pass keeps of a block; the rest is computed again.
REMAT_POLICIES = {
    "none": jax.checkpoint_policies.everything_saveable,
    "names": jax.checkpoint_policies.save_only_these_names("qkv", "attention", "residual", "fc1"),
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Encoded(NamedTuple):
    """Everything that one pass can return.

    Attributes:
      tokens: [B, 1 + N, D] after the final LayerNorm, cls first.
      layers: [L, B, 1 + N, D] tokens after the requested blocks, before the final LayerNorm.
      attention: [A, B, H, 1 + N, 1 + N] attention weights of the requested blocks.
    """

    tokens: jax.Array
    layers: jax.Array
    attention: jax.Array


class VisionTransformer(nn.Module):
    """Maps [B, H, W, C] normalised images to cls and patch tokens.

    Blocks are scanned: each of their parameters has one leading depth axis. Stochastic depth is
    active while the caller provides a "drop_path" RNG.

    Attributes:
      embed_dim: D, width of the tokens.
      depth: number of blocks.
      num_heads: attention heads; must divide `embed_dim`.
      patch_size: side of a patch in pixels.
      image_size: (H, W) in pixels that the position table is made for; any other size is resampled.
      in_channels: channels of an image.
      mlp_ratio: hidden width of the MLP over `embed_dim`.
      drop_path_rate: stochastic depth rate of the last block; rates grow linearly from 0.
      position_kernel: "bicubic" (DINO, DINOv2) or "antialiased" (DINOv2 with registers).
      dtype: of the activations; parameters are float32.
      remat: what the backward pass keeps, a key of `REMAT_POLICIES`.
      scan_unroll: blocks per iteration of the scan over depth; same numbers, other compile time.
    """

    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int
    image_size: Grid
    in_channels: int = 3
    mlp_ratio: float = 4.0
    drop_path_rate: float = 0.0
    position_kernel: str = "bicubic"
    dtype: Dtype = jnp.float32
    remat: str = "none"
    scan_unroll: int = 1

    @property
    def table_grid(self) -> Grid:
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    def setup(self):
        dim, patch = self.embed_dim, self.patch_size
        self.patch_embed = PatchEmbed(patch, dim, self.dtype)
        self.cls_token = self.param("cls_token", linear_init, (1, 1, dim))
        positions = 1 + self.table_grid[0] * self.table_grid[1]
        self.pos_embed = self.param("pos_embed", linear_init, (1, positions, dim))
        block = Block
        if self.remat != "none":
            block = nn.remat(Block, policy=REMAT_POLICIES[self.remat], prevent_cse=False)
        self.blocks = block(self.num_heads, self.mlp_ratio, self.dtype)
        self.norm = layer_norm(self.dtype)

    def __call__(self, images: jax.Array) -> Features:
        """[B, H, W, C] -> {"cls": [B, D], "patches": [B, N, D]}, both after the final LayerNorm."""
        return _split(self.encode(images).tokens)

    def intermediate(
        self, images: jax.Array, layers: Sequence[int], normalize: bool = True
    ) -> tuple[Features, ...]:
        """Features after the given blocks (negative: from the end), through the final LayerNorm."""
        outputs = self.encode(images, layers=layers).layers
        return tuple(_split(self.norm(x) if normalize else x) for x in outputs)

    def attention(self, images: jax.Array, layer: int = -1) -> jax.Array:
        """[B, H, W, C] -> [B, heads, 1 + N, 1 + N] attention weights of one block; cls is row 0."""
        return self.encode(images, attention=(layer,)).attention[0]

    def encode(
        self, images: jax.Array, layers: Sequence[int] = (), attention: Sequence[int] = ()
    ) -> Encoded:
        """Runs all blocks and keeps what the given block indices ask for."""
        tokens = self.embed(images)
        batch, count, dim = tokens.shape
        weights_shape = (len(attention), batch, self.num_heads, count, count)
        kept = {
            "layers": jnp.zeros((len(layers), batch, count, dim), tokens.dtype),
            "attention": jnp.zeros(weights_shape, jnp.float32),
        }
        per_block = {
            "drop_rate": jnp.linspace(0.0, self.drop_path_rate, self.depth, dtype=jnp.float32),
            "layers": jnp.asarray(_slots(layers, self.depth)),
            "attention": jnp.asarray(_slots(attention, self.depth)),
        }

        def run_block(block: Block, carry, inputs):
            tokens, kept = carry
            tokens, weights = block(tokens, inputs["drop_rate"])
            # A block that nobody asked for has a slot past the end: its write is dropped.
            if layers:
                kept["layers"] = kept["layers"].at[inputs["layers"]].set(tokens, mode="drop")
            if attention:
                slot = inputs["attention"]
                kept["attention"] = kept["attention"].at[slot].set(weights, mode="drop")
            return (tokens, kept), None

        scan = nn.scan(
            run_block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "drop_path": True},
            length=self.depth,
            unroll=self.scan_unroll,
        )
        (tokens, kept), _ = scan(self.blocks, (tokens, kept), per_block)
        return Encoded(self.norm(tokens), kept["layers"], kept["attention"])

    def embed(self, images: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, 1 + N, D] tokens with positions; a part of a patch is cut off."""
        batch, height, width, _ = images.shape
        grid = (height // self.patch_size, width // self.patch_size)
        tokens = self.patch_embed(images)
        cls = jnp.broadcast_to(self.cls_token, (batch, 1, self.embed_dim)).astype(self.dtype)
        positions = resize_position_embedding(
            self.pos_embed, self.table_grid, grid, (height, width), self.position_kernel
        )
        return jnp.concatenate([cls, tokens], axis=1) + positions.astype(self.dtype)


def _slots(chosen: Sequence[int], depth: int) -> np.ndarray:
    """[depth] position of every block in `chosen`; len(chosen) for the others.

    Raises:
      ValueError: if a block index is out of range or named twice.
    """
    blocks = [index + depth if index < 0 else index for index in chosen]
    if any(not 0 <= index < depth for index in blocks) or len(set(blocks)) < len(blocks):
        raise ValueError(
            f"blocks {tuple(chosen)} must be different indices in [-{depth}, {depth}) of a model "
            f"with {depth} blocks"
        )
    slots = np.full(depth, len(blocks), np.int32)
    slots[blocks] = np.arange(len(blocks))
    return slots


def _split(tokens: jax.Array) -> Features:
    return {"cls": tokens[:, 0], "patches": tokens[:, 1:]}
