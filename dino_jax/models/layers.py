"""Layers that the backbones and heads share."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

Dtype = Any

# Truncated at +-100 standard deviations in the official code: a plain normal in effect.
linear_init = nn.initializers.normal(0.02)


def matmul_precision(dtype: Dtype) -> jax.lax.Precision | None:
    """float32 compute means float32 products: a TPU would multiply in bfloat16 by default."""
    return jax.lax.Precision.HIGHEST if jnp.dtype(dtype) == jnp.float32 else None


def dense(features: int, dtype: Dtype, name: str | None = None) -> nn.Dense:
    """A linear layer with the official initialisation: normal 0.02, zero bias."""
    precision = matmul_precision(dtype)
    return nn.Dense(features, dtype=dtype, kernel_init=linear_init, precision=precision, name=name)


def layer_norm(dtype: Dtype, name: str | None = None) -> nn.LayerNorm:
    """LayerNorm with eps 1e-6, statistics in float32."""
    return nn.LayerNorm(epsilon=1e-6, dtype=dtype, use_fast_variance=False, name=name)


def drop_path(x: jax.Array, rate: jax.Array, rng: jax.Array) -> jax.Array:
    """Stochastic depth (arXiv:1603.09382): zeroes samples, scales the others by 1 / (1 - rate).

    Args:
      x: [B, ...] output of a residual branch.
      rate: scalar probability of dropping a sample, in [0, 1).
      rng: key of the draw.
    """
    keep = 1.0 - rate
    kept = jax.random.bernoulli(rng, keep, (x.shape[0],) + (1,) * (x.ndim - 1))
    return jnp.where(kept, x / keep.astype(x.dtype), 0)


def l2_normalize(x: jax.Array, epsilon: float = 1e-12) -> jax.Array:
    """x / max(||x||, epsilon) along the last axis, in float32, with a finite gradient at zero."""
    x = x.astype(jnp.float32)
    squared_norm = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared_norm, epsilon**2))


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with torch's running statistics.

    Statistics are those of the batch, and the running ones are updated, while the collection
    "batch_stats" is mutable; otherwise the running ones are used. Under jit the batch mean is the
    mean over the global batch, so it is synchronised. flax.linen.BatchNorm keeps the biased
    variance; torch keeps the unbiased one.
    """

    momentum: float = 0.9  # torch's momentum 0.1
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = (x.shape[-1],)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, features, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, features, jnp.float32)
        scale = self.param("scale", nn.initializers.ones, features)
        bias = self.param("bias", nn.initializers.zeros, features)
        x = x.astype(jnp.float32)
        if self.is_mutable_collection("batch_stats"):
            axes = tuple(range(x.ndim - 1))
            count = x.size // x.shape[-1]
            mean, var = jnp.mean(x, axes), jnp.var(x, axes)
            if not self.is_initializing():
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value = self._blend(running_mean.value, mean)
                running_var.value = self._blend(running_var.value, unbiased)
        else:
            mean, var = running_mean.value, running_var.value
        return ((x - mean) * jax.lax.rsqrt(var + self.epsilon) * scale + bias).astype(self.dtype)

    def _blend(self, running: jax.Array, batch: jax.Array) -> jax.Array:
        return self.momentum * running + (1 - self.momentum) * jax.lax.stop_gradient(batch)


def uniform_init(fan_in: int) -> nn.initializers.Initializer:
    """torch's default for linear and convolution layers: U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class PatchEmbed(nn.Module):
    """Linear map of non-overlapping patches, a convolution whose stride is its kernel size."""

    patch_size: int
    embed_dim: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, N, D] row by row; pixels beyond the last whole patch are cut off."""
        batch, height, width, channels = images.shape
        patch, dim = self.patch_size, self.embed_dim
        rows, columns = height // patch, width // patch
        init = uniform_init(patch * patch * channels)
        kernel = self.param("kernel", init, (patch, patch, channels, dim))
        bias = self.param("bias", init, (dim,))
        patches = images[:, : rows * patch, : columns * patch].astype(self.dtype)
        patches = patches.reshape(batch, rows, patch, columns, patch, channels)
        patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, -1)
        kernel = kernel.reshape(-1, dim).astype(self.dtype)
        tokens = jnp.matmul(patches, kernel, precision=matmul_precision(self.dtype))
        return tokens + bias.astype(self.dtype)


class Mlp(nn.Module):
    """fc2(GELU(fc1(x))) with the exact erf GELU: [..., D] -> [..., D]."""

    hidden_dim: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dim = x.shape[-1]
        x = dense(self.hidden_dim, self.dtype, name="fc1")(x)
        x = nn.gelu(checkpoint_name(x, "fc1"), approximate=False)
        return dense(dim, self.dtype, name="fc2")(x)


def attention_weights(queries: jax.Array, keys: jax.Array) -> jax.Array:
    """[B, N, H, d] queries and keys -> [B, H, N, N] float32 softmax over the keys."""
    scale = queries.shape[-1] ** -0.5
    scores = jnp.einsum("bqhd,bkhd->bhqk", queries, keys, precision=matmul_precision(queries.dtype))
    return jax.nn.softmax(scores.astype(jnp.float32) * scale, axis=-1)


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection for queries, keys and values."""

    num_heads: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[B, N, D] -> ([B, N, D] output, [B, H, N, N] float32 attention weights)."""
        batch, tokens, dim = x.shape
        qkv = checkpoint_name(dense(3 * dim, self.dtype, name="qkv")(x), "qkv")
        # All queries, then all keys, then all values; the heads are contiguous inside each.
        qkv = qkv.reshape(batch, tokens, 3, self.num_heads, dim // self.num_heads)
        queries, keys, values = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        weights = attention_weights(queries, keys)
        mixed = jnp.einsum(
            "bhqk,bkhd->bqhd",
            weights.astype(self.dtype),
            values,
            precision=matmul_precision(self.dtype),
        )
        mixed = checkpoint_name(mixed.reshape(batch, tokens, dim), "attention")
        return dense(dim, self.dtype, name="proj")(mixed), weights


class Block(nn.Module):
    """Pre-norm transformer block: x += attention(norm1(x)); x += mlp(norm2(x)).

    Both branches have stochastic depth while the caller provides a "drop_path" RNG.
    """

    num_heads: int
    mlp_ratio: float
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, drop_rate: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Moves the tokens through one layer.

        Args:
          x: [B, N, D] tokens.
          drop_rate: scalar, probability of dropping a sample's branch.

        Returns:
          [B, N, D] tokens and [B, H, N, N] attention weights.
        """
        hidden_dim = int(x.shape[-1] * self.mlp_ratio)
        attention = Attention(self.num_heads, self.dtype, name="attention")
        mixed, weights = attention(layer_norm(self.dtype, name="norm1")(x))
        x = checkpoint_name(x + self._stochastic(mixed, drop_rate), "residual")
        mlp = Mlp(hidden_dim, self.dtype, name="mlp")
        x = x + self._stochastic(mlp(layer_norm(self.dtype, name="norm2")(x)), drop_rate)
        return x, weights

    def _stochastic(self, branch: jax.Array, rate: jax.Array) -> jax.Array:
        if not self.has_rng("drop_path"):
            return branch
        return drop_path(branch, rate, self.make_rng("drop_path"))
