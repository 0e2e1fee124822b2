"""Attention over long sequences on TPUs, without [T, T] scores in memory: jax's splash attention.

Scores live on the chip, a block of queries and keys at a time (FlashAttention, arXiv:2205.14135);
the backward pass computes them again from the logarithms of their sums.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention

from dino_jax.devices.kernels.tiles import LANES

# Queries and keys whose scores are computed at once. By the compiler's schedules for a v5e, 1370
# tokens and 16 heads take 0.61 million cycles, both passes together, in blocks of 512 x 512, and
# 0.75 in blocks of 128 x all. 768 x 768 take 0.59, but compile longer.
MAX_BLOCK = 512
MAX_BLOCKS_OF_KEYS = 8  # that are on the chip together


class Blocks(NamedTuple):
    """Division of a sequence into blocks.

    Attributes:
      size: tokens of a block, a multiple of 128.
      number: number of blocks; the sequence is padded to size * number tokens.
      together: blocks of keys that are loaded at once; divides `number`.
    """

    size: int
    number: int
    together: int


def cut(tokens: int) -> Blocks:
    """Divides a sequence into as few blocks as possible, of equal size."""
    number = -(-tokens // MAX_BLOCK)
    size = -(-tokens // (number * LANES)) * LANES
    divisors = [n for n in range(1, MAX_BLOCKS_OF_KEYS + 1) if number % n == 0]
    return Blocks(size, number, max(divisors))


def long_attention(
    queries: jax.Array, keys: jax.Array, values: jax.Array, interpret: bool = False
) -> jax.Array:
    """softmax(queries keys' / sqrt(d)) values, on one device.

    Args:
      queries: [B, T, H, d]
      keys: [B, T, H, d]
      values: [B, T, H, d]
      interpret: runs without a TPU, as tests do.

    Returns:
      [B, T, D], the heads side by side; "attention" names what the backward pass may keep of it.
    """
    batch, tokens, heads, width = queries.shape
    blocks = cut(tokens)
    padded = blocks.size * blocks.number

    def heads_first(x: jax.Array) -> jax.Array:
        """[B, T, H, d] -> [B, H, padded, d]."""
        return jnp.pad(x, ((0, 0), (0, padded - tokens), (0, 0), (0, 0))).swapaxes(1, 2)

    # A query attends to the keys of its own segment: those in 0 are padding.
    segments = splash_attention.SegmentIds(
        jnp.ones(padded, jnp.int32), (jnp.arange(padded) < tokens).astype(jnp.int32)
    )
    attend: Any = jax.vmap(_kernel(blocks, heads, interpret), in_axes=(0, 0, 0, None))
    scaled = queries * jnp.asarray(width**-0.5, queries.dtype)
    mixed = attend(heads_first(scaled), heads_first(keys), heads_first(values), segments)
    return mixed.swapaxes(1, 2)[:, :tokens].reshape(batch, tokens, heads * width)


def _kernel(blocks: Blocks, heads: int, interpret: bool):
    """Maps [H, padded, d] queries, keys and values of one sample, and its segments."""
    size, keys = blocks.size, blocks.size * blocks.together
    sizes = splash_attention.BlockSizes(
        *(size, keys, size),
        block_q_dkv=size,
        block_kv_dkv=keys,
        block_kv_dkv_compute=size,
        use_fused_bwd_kernel=True,  # computes the scores once for all three gradients
    )
    padded = size * blocks.number
    everything = splash_attention.FullMask((padded, padded))
    return splash_attention.make_splash_mha_single_device(
        splash_attention.MultiHeadMask([everything] * heads),
        block_sizes=sizes,
        residual_checkpoint_name="attention",
        interpret=interpret,
    )
