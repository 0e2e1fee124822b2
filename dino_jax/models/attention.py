"""Multi-head self-attention of the ViT."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from dino_jax.models.layers import FIRST_KERNELS, Dtype, dense, linear_init, matmul_precision
from dino_jax.models.products import rounded_matmul
from dino_jax.models.rope import Rotation, rotate


def attention_weights(
    queries: jax.Array, keys: jax.Array, seen: jax.Array | None = None
) -> jax.Array:
    """[B, N, H, d] queries and keys -> [B, H, N, N] float32 softmax over the keys.

    `seen` [N, N] bool says which keys (columns) a query (row) sees; None: all.
    """
    scale = queries.shape[-1] ** -0.5
    scores = jnp.einsum("bqhd,bkhd->bhqk", queries, keys, precision=matmul_precision(queries.dtype))
    scores = scores.astype(jnp.float32) * scale
    return jax.nn.softmax(scores if seen is None else jnp.where(seen, scores, -jnp.inf), axis=-1)


# Queries, keys and values [B, N, H, d] -> mixed values [B, N, D], and the weights if computed.
Attend = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array | None]]


def attend(
    queries: jax.Array, keys: jax.Array, values: jax.Array, seen: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """[B, N, H, d] each -> ([B, N, D] mixed values, [B, H, N, N] float32 attention weights)."""
    weights = attention_weights(queries, keys, seen)
    mixed = jnp.einsum(
        "bhqk,bkhd->bqhd",
        weights.astype(values.dtype),
        values,
        precision=matmul_precision(values.dtype),
    )
    return checkpoint_name(mixed.reshape(*mixed.shape[:2], -1), "attention"), weights


def attend_causally(
    queries: jax.Array, keys: jax.Array, values: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """As `attend`, but every token sees only itself and those before it."""
    return attend(queries, keys, values, jnp.tri(queries.shape[1], dtype=bool))


def without_key_bias(bias: jax.Array) -> jax.Array:
    """The bias of all queries, keys and values, [3 D], with zeros for the keys."""
    queries, keys, values = jnp.split(bias, 3)
    return jnp.concatenate([queries, jnp.zeros_like(keys), values])


class MaskedBiasDense(nn.Module):
    """`dense` to queries, keys and values whose bias of the keys counts as 0 (DINOv3).

    The parameter is there as a whole, as in the official state dicts; its middle third never moves.
    """

    features: int
    dtype: Dtype = jnp.float32
    kernel_init: nn.initializers.Initializer = linear_init
    rounds: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if self.rounds:
            product = rounded_matmul(x, kernel)
        else:
            product = jnp.matmul(x, kernel, precision=matmul_precision(self.dtype))
        return product + without_key_bias(bias).astype(product.dtype)


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection for queries, keys and values."""

    num_heads: int
    qkv_bias: bool = True
    proj_bias: bool = True
    dtype: Dtype = jnp.float32
    first_kernels: str = "normal"
    rounds: bool = False
    key_bias: bool = True

    @nn.compact
    def __call__(
        self, x: jax.Array, attend: Attend = attend, rotation: Rotation | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        """[B, N, D] -> ([B, N, D] output, [B, H, N, N] float32 attention weights, if computed).

        Queries and keys turn by `rotation`.
        """
        batch, tokens, dim = x.shape
        linear = partial(dense, dtype=self.dtype, rounds=self.rounds)
        first = FIRST_KERNELS[self.first_kernels]
        if self.qkv_bias and not self.key_bias:
            qkv = MaskedBiasDense(3 * dim, self.dtype, first.qkv, self.rounds, name="qkv")(x)
        else:
            qkv = linear(3 * dim, name="qkv", use_bias=self.qkv_bias, kernel_init=first.qkv)(x)
        # All queries, then all keys, then all values; the heads are contiguous inside each.
        qkv = checkpoint_name(qkv, "qkv")
        qkv = qkv.reshape(batch, tokens, 3, self.num_heads, dim // self.num_heads)
        queries, keys, values = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        if rotation is not None:
            queries, keys = rotate(queries, rotation), rotate(keys, rotation)
        mixed, weights = attend(queries, keys, values)
        output = linear(dim, name="proj", use_bias=self.proj_bias, kernel_init=first.linear)
        return output(mixed), weights
