"""Heads of kind "decoder": the one of MAE (arXiv:2111.06377, Sec. 3), from tokens to pixels."""

import math
from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from dino_jax.config.range import MOST_SIDE, MOST_WIDTH
from dino_jax.config.section import option
from dino_jax.models.block import Block
from dino_jax.models.layers import Dtype, dense, layer_norm, linear_init, xavier_init
from dino_jax.models.position import Grid, init_positions

Tokens = tuple[jax.Array, jax.Array, jax.Array | None]  # cls, patches, visible, see `FEATURES`


@dataclass(frozen=True)
class Config:
    """A section of `config.network.heads` of kind "decoder"."""

    kind: str = option("decoder", "transformer from the tokens of visible patches to all patches")
    of: str = option("tokens", "what it takes")
    grid: tuple[int, int] = option(
        (14, 14), "(rows, columns) of patches of a global crop", at_least=1, at_most=MOST_SIDE
    )
    out_dim: int = option(
        768, "values of a patch: its side squared, times channels", at_least=1, at_most=MOST_WIDTH
    )
    embed_dim: int = option(
        512, "width of its tokens, a multiple of 4", at_least=4, at_most=MOST_WIDTH
    )
    depth: int = option(8, "blocks", at_least=1, at_most=1000)
    num_heads: int = option(16, "attention heads", at_least=1, at_most=MOST_WIDTH)


class Decoder(nn.Module):
    """Predicts all patches of an image from the tokens of those that a backbone saw.

    A mask token stands for each of the others; then fixed positions are added to all. The table of
    positions is a parameter, as in the official code; `config.optimizer.fixed` keeps it.

    Attributes:
      out_dim: K, values of a patch.
      grid: (rows, columns) of patches, N in all.
      embed_dim: width of its tokens.
      depth: blocks.
      num_heads: attention heads.
      dtype: dtype of the activations; parameters and the output are float32.
      of: its input, see `Head`.
      rounds: whether products have rounded operands, see `products`.
    """

    out_dim: int
    grid: Grid
    embed_dim: int
    depth: int
    num_heads: int
    dtype: Dtype = jnp.float32
    of: str = "tokens"
    rounds: bool = False

    row_wise = True

    @nn.compact
    def __call__(self, tokens: Tokens) -> jax.Array:
        """[B, 1 + k, D] tokens -> [B, N, K] float32 predictions, row by row."""
        cls, patches, visible = tokens
        width, count = self.embed_dim, math.prod(self.grid)
        x = jnp.concatenate([cls[:, None], patches], axis=1)
        linear = partial(dense, dtype=self.dtype, kernel_init=xavier_init, rounds=self.rounds)
        x = linear(width, name="embed")(x)
        cls, patches = x[:, :1], x[:, 1:]
        mask_token = self.param("mask_token", linear_init, (1, 1, width))
        if visible is not None:
            everywhere = jnp.broadcast_to(mask_token.astype(x.dtype), (len(x), count, width))
            rows = jnp.arange(len(x))[:, None]
            patches = everywhere.at[rows, visible].set(patches)
        if patches.shape[1] != count:
            raise ValueError(
                f"a decoder with a grid of {self.grid} got {patches.shape[1]} patches; set "
                "--config.network.heads.NAME.grid to those of a global crop"
            )
        shape = (1, 1 + count, width)
        positions = self.param("pos_embed", init_positions("columns_first", self.grid), shape)
        x = jnp.concatenate([cls, patches], axis=1) + positions.astype(self.dtype)
        block = Block(
            width,
            self.num_heads,
            4.0,
            first_kernels="xavier",
            dtype=self.dtype,
            rounds=self.rounds,
            name="blocks",
        )
        scan = nn.scan(
            lambda block, x, _: (block((x,))[0][0], None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.depth,
        )
        x, _ = scan(block, x, None)
        x = layer_norm(self.dtype, 1e-6, name="norm")(x)
        predictions = linear(self.out_dim, name="predict")(x)
        return predictions[:, 1:].astype(jnp.float32)


def build(config: Config, dtype: Dtype) -> Decoder:
    """Builds a head.

    Args:
      config: the section.
      dtype: dtype of the activations.

    Raises:
      ValueError: if options do not fit together.
    """
    width, heads = config.embed_dim, config.num_heads
    if width % heads or width % 4:
        raise ValueError(
            f"the embed_dim of a decoder ({width}) must be a multiple of its num_heads ({heads}) "
            "and of 4"
        )
    if config.of != "tokens":
        raise ValueError(f"a decoder takes 'tokens', and `of` is {config.of!r}")
    return Decoder(config.out_dim, config.grid, width, config.depth, heads, dtype)
