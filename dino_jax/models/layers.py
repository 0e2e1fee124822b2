"""Layers that the backbones and heads share."""

import math
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from dino_jax.models.products import rounded_dot_general, rounded_matmul

Dtype = Any

# Truncated at +-100 standard deviations in the official code: a plain normal in effect.
linear_init = nn.initializers.normal(0.02)
xavier_init = nn.initializers.xavier_uniform()


def matmul_precision(dtype: Dtype) -> jax.lax.Precision | None:
    """float32 compute means float32 products: a TPU would multiply in bfloat16 by default."""
    return jax.lax.Precision.HIGHEST if jnp.dtype(dtype) == jnp.float32 else None


def dense(
    features: int,
    dtype: Dtype,
    name: str | None = None,
    use_bias: bool = True,
    kernel_init: nn.initializers.Initializer = linear_init,
    rounds: bool = False,
) -> nn.Dense:
    """A linear layer with zero bias, initialized as the official DINO unless told otherwise.

    Args:
      features: width of the output.
      dtype: dtype of the activations.
      name: of the module.
      use_bias: whether it has a bias.
      kernel_init: initial weights.
      rounds: whether it rounds the operands of its products, see `products`.
    """
    return nn.Dense(
        features,
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=kernel_init,
        precision=matmul_precision(dtype),
        dot_general=rounded_dot_general if rounds else None,
        name=name,
    )


def layer_norm(dtype: Dtype, epsilon: float, name: str | None = None) -> nn.LayerNorm:
    """LayerNorm with statistics in float32."""
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name)


def l2_normalize(x: jax.Array, epsilon: float = 1e-12) -> jax.Array:
    """x / max(||x||, epsilon) along the last axis, in float32, with a finite gradient at zero."""
    x = x.astype(jnp.float32)
    squared_norm = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared_norm, epsilon**2))


class BatchNorm(nn.Module):
    """Batch normalization over all axes but the last, with torch's running statistics.

    Statistics are those of the batch, and the running ones are updated, while the collection
    "batch_stats" is mutable; otherwise the running ones are used. Under jit the batch mean is the
    mean over the global batch, so it is synchronized. flax.linen.BatchNorm keeps the biased
    variance; torch keeps the unbiased one.

    Attributes:
      momentum: momentum of the running statistics.
      epsilon: added to the variance.
      use_scale: whether there is a learned factor per channel.
      use_bias: whether there is a learned offset per channel.
      dtype: dtype of the result; statistics are float32.
      first_scale: initial factor of every channel.
    """

    momentum: float = 0.9  # torch's momentum 0.1
    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    dtype: Dtype = jnp.float32
    first_scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = (x.shape[-1],)
        first_scale = nn.initializers.constant(self.first_scale)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, features, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, features, jnp.float32)
        scale = self.param("scale", first_scale, features) if self.use_scale else 1.0
        bias = self.param("bias", nn.initializers.zeros, features) if self.use_bias else 0.0
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


def _split_xavier_init(key, shape, dtype=jnp.float32):
    """Xavier uniform for queries, keys and values as matrices of their own: [D, 3 D]."""
    return jnp.concatenate(
        [xavier_init(part, (shape[0], shape[1] // 3), dtype) for part in jax.random.split(key, 3)],
        axis=1,
    )


def _flat_xavier_init(key, shape, dtype=jnp.float32):
    """Xavier uniform of a [p, p, C, D] convolution taken as one [p * p * C, D] matrix."""
    return xavier_init(key, (math.prod(shape[:-1]), shape[-1]), dtype).reshape(shape)


class FirstKernels(NamedTuple):
    """Initial weights of a ViT; biases of linear layers start at 0.

    Attributes:
      linear: of the linear layers.
      qkv: of the queries, keys and values, [D, 3 D].
      patch_kernel: of the patch embedding, [p, p, C, D]; None: torch's default.
      patch_bias: of the patch embedding; None: torch's default.
    """

    linear: nn.initializers.Initializer = linear_init
    qkv: nn.initializers.Initializer = linear_init
    patch_kernel: nn.initializers.Initializer | None = None
    patch_bias: nn.initializers.Initializer | None = None


FIRST_KERNELS = {
    "normal": FirstKernels(),
    "xavier": FirstKernels(xavier_init, xavier_init, _flat_xavier_init),
    "xavier_split": FirstKernels(
        xavier_init, _split_xavier_init, _flat_xavier_init, nn.initializers.zeros
    ),
}


class PatchEmbed(nn.Module):
    """Linear map of non-overlapping patches, a convolution whose stride is its kernel size."""

    patch_size: int
    embed_dim: int
    dtype: Dtype = jnp.float32
    first_kernels: str = "normal"
    rounds: bool = False
    use_bias: bool = True

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, N, D] row by row; pixels beyond the last whole patch are cut off."""
        batch, height, width, channels = images.shape
        patch, dim = self.patch_size, self.embed_dim
        rows, columns = height // patch, width // patch
        default, first = uniform_init(patch * patch * channels), FIRST_KERNELS[self.first_kernels]
        kernel_init, bias_init = first.patch_kernel or default, first.patch_bias or default
        kernel = self.param("kernel", kernel_init, (patch, patch, channels, dim))
        bias = self.param("bias", bias_init, (dim,)) if self.use_bias else None
        patches = images[:, : rows * patch, : columns * patch].astype(self.dtype)
        patches = patches.reshape(batch, rows, patch, columns, patch, channels)
        patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, -1)
        kernel = kernel.reshape(-1, dim).astype(self.dtype)
        if self.rounds:
            tokens = rounded_matmul(patches, kernel)
        else:
            tokens = jnp.matmul(patches, kernel, precision=matmul_precision(self.dtype))
        return tokens if bias is None else tokens + bias.astype(self.dtype)


def gelu(x: jax.Array) -> jax.Array:
    """x * Phi(x) with the error function, as torch computes it; jax.nn.gelu's erfc costs more."""
    exact = x.astype(jnp.float32)
    return (exact * (0.5 + 0.5 * jax.lax.erf(exact * 0.5**0.5))).astype(x.dtype)


def quick_gelu(x: jax.Array) -> jax.Array:
    """x * sigmoid(1.702 x), the approximation in OpenAI's CLIP (arXiv:1606.08415, Section 2)."""
    return x * nn.sigmoid(1.702 * x)


ACTIVATIONS = {
    "gelu": gelu,
    "quick_gelu": quick_gelu,
    "tanh_gelu": partial(nn.gelu, approximate=True),
}


class Mlp(nn.Module):
    """fc2(activation(fc1(x))), by default the exact erf GELU: [..., D] -> [..., D]."""

    hidden_dim: int
    use_bias: bool = True
    dtype: Dtype = jnp.float32
    first_kernels: str = "normal"
    rounds: bool = False
    activation: str = "gelu"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dim = x.shape[-1]
        linear = partial(
            dense,
            dtype=self.dtype,
            use_bias=self.use_bias,
            kernel_init=FIRST_KERNELS[self.first_kernels].linear,
            rounds=self.rounds,
        )
        x = linear(self.hidden_dim, name="fc1")(x)
        return linear(dim, name="fc2")(ACTIVATIONS[self.activation](checkpoint_name(x, "hidden")))


class SwiGlu(nn.Module):
    """w3(SiLU(gate) * value) with (gate, value) = w12(x) (arXiv:2002.05202): [..., D] -> [..., D].

    `hidden_dim` is that of the MLP it replaces. Both halves have two thirds of it, for about the
    same number of parameters, rounded up to a multiple of `multiple`: 8 is the "fused" variant of
    DINOv2; DINOv3 keeps the two halves of w12 apart, as w1 and w2.
    """

    hidden_dim: int
    use_bias: bool = True
    dtype: Dtype = jnp.float32
    first_kernels: str = "normal"
    rounds: bool = False
    multiple: int = 8

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dim = x.shape[-1]
        half = swiglu_width(self.hidden_dim, self.multiple)
        linear = partial(
            dense,
            dtype=self.dtype,
            use_bias=self.use_bias,
            kernel_init=FIRST_KERNELS[self.first_kernels].linear,
            rounds=self.rounds,
        )
        hidden = linear(2 * half, name="w12")(x)
        gate, value = jnp.split(checkpoint_name(hidden, "hidden"), 2, axis=-1)
        return linear(dim, name="w3")(nn.silu(gate) * value)


FFNS = {
    "mlp": Mlp,
    "swiglu": SwiGlu,
    "swiglu32": partial(SwiGlu, multiple=32),
    "swiglu64": partial(SwiGlu, multiple=64),
    "swiglu128": partial(SwiGlu, multiple=128),
}


def swiglu_width(hidden_dim: int, multiple: int) -> int:
    """Width of the gate of a SwiGLU that replaces an MLP of `hidden_dim`."""
    return -(-int(hidden_dim * 2 / 3) // multiple) * multiple


class LayerScale(nn.Module):
    """Learned factor per channel of a residual branch (CaiT, arXiv:2103.17239, Section 2)."""

    initial: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        gamma = self.param("gamma", nn.initializers.constant(self.initial), (x.shape[-1],))
        return x * gamma.astype(x.dtype)
