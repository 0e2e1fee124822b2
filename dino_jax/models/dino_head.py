"""Heads of kind "dino": the projection head of DINO (arXiv:2104.14294, Sec. 3.1, Appendix C)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from dino_jax.config.range import MOST_WIDTH
from dino_jax.config.section import option
from dino_jax.models.layers import (
    BatchNorm,
    Dtype,
    dense,
    l2_normalize,
    linear_init,
    matmul_precision,
    uniform_init,
)


@dataclass(frozen=True)
class Config:
    """A section of `config.network.heads` of kind "dino"."""

    kind: str = option("dino", "MLP, L2-normalized bottleneck and prototypes")
    of: str = option("cls", "what it takes: cls | patches | the name of another head")
    out_dim: int = option(65536, "prototypes", at_least=2, at_most=1 << 24)
    hidden_dim: int = option(2048, "width of the hidden layers", at_least=1, at_most=MOST_WIDTH)
    bottleneck_dim: int = option(256, "width before the prototypes", at_least=1, at_most=MOST_WIDTH)
    layers: int = option(3, "linear layers of the MLP", at_least=1, at_most=100)
    batch_norm: bool = option(False, "BatchNorm after each hidden layer")
    train_gain: bool = option(False, "train the gains of the prototypes (norm_last_layer=False)")
    last_layer: Literal["prototypes", "linear"] = option(
        "prototypes", "of unit length, or a linear layer without bias (DINOv3): unbounded logits"
    )


class Prototypes(nn.Module):
    """Weight-normalized linear layer without bias (arXiv:1602.07868): w_k = gain_k * v_k / ||v_k||.

    The prototypes are stored [K, d] and normalized along the minor axis: any other layout makes
    this layer many times slower. The gain exists only when it is trained; otherwise it is 1.
    """

    out_dim: int
    train_gain: bool
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., d] -> [..., K] float32 logits."""
        dim = x.shape[-1]
        prototypes = self.param("prototypes", uniform_init(dim), (self.out_dim, dim))
        weights = prototypes / jnp.linalg.norm(prototypes, axis=-1, keepdims=True)
        if self.train_gain:
            weights = weights * self.param("gain", nn.initializers.ones, (self.out_dim, 1))
        return jnp.einsum(
            "...d,kd->...k",
            x.astype(self.dtype),
            weights.astype(self.dtype),
            precision=matmul_precision(self.dtype),
            preferred_element_type=jnp.float32,
        )


class LinearPrototypes(nn.Module):
    """Linear layer without bias, of which nothing is normalized; stored [K, d] as `Prototypes`."""

    out_dim: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., d] -> [..., K] float32 logits."""
        weights = self.param("weights", linear_init, (self.out_dim, x.shape[-1]))
        return jnp.einsum(
            "...d,kd->...k",
            x.astype(self.dtype),
            weights.astype(self.dtype),
            precision=matmul_precision(self.dtype),
            preferred_element_type=jnp.float32,
        )


def run_mlp(
    x: jax.Array, widths: Sequence[int], batch_norm: bool, dtype: Dtype, rounds: bool = False
) -> jax.Array:
    """Linear layers with GELU (erf) between them, as modules of the head that calls it.

    Args:
      x: [..., D]
      widths: of the layers.
      batch_norm: BatchNorm after each hidden layer.
      dtype: dtype of the activations.
      rounds: whether they round the operands of their products, see `products`.
    """
    for index, width in enumerate(widths):
        x = dense(width, dtype, name=f"linear_{index}", rounds=rounds)(x)
        if index == len(widths) - 1:
            break
        if batch_norm:
            x = BatchNorm(dtype=dtype, name=f"norm_{index}")(x)
        x = nn.gelu(x, approximate=False)
    return x


class DinoHead(nn.Module):
    """MLP, L2-normalized bottleneck, weight-normalized prototypes.

    Attributes:
      out_dim: K, number of prototypes.
      hidden_dim: width of the hidden layers.
      bottleneck_dim: d, width before the prototypes.
      layers: linear layers of the MLP, at least 1; GELU (erf) between them.
      batch_norm: BatchNorm after each hidden layer, over all views together.
      train_gain: train the gains of the last layer (official norm_last_layer=False).
      linear: whether the last layer is plain, without gains.
      dtype: dtype of the activations; parameters, normalization and logits are float32.
      of: its input, see `Head`.
      rounds: whether products have rounded operands, see `products`.
    """

    out_dim: int
    hidden_dim: int
    bottleneck_dim: int
    layers: int
    batch_norm: bool
    train_gain: bool
    dtype: Dtype = jnp.float32
    of: str = "cls"
    rounds: bool = False
    linear: bool = False

    @property
    def row_wise(self) -> bool:
        """Whether it treats every row on its own: BatchNorm looks at all."""
        return not self.batch_norm

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., K] float32 logits."""
        widths = (self.hidden_dim,) * (self.layers - 1) + (self.bottleneck_dim,)
        x = run_mlp(x, widths, self.batch_norm, self.dtype, self.rounds)
        if self.linear:
            last = LinearPrototypes(self.out_dim, self.dtype, name="last_layer")
        else:
            last = Prototypes(self.out_dim, self.train_gain, self.dtype, name="last_layer")
        return last(l2_normalize(x))


def build(config: Config, dtype: Dtype) -> DinoHead:
    """Builds a head.

    Args:
      config: the section.
      dtype: dtype of the activations.

    Raises:
      ValueError: if a linear last layer is to have gains.
    """
    if config.last_layer == "linear" and config.train_gain:
        raise ValueError(
            "config.network.heads: last_layer='linear' has no gains; set train_gain=False"
        )
    return DinoHead(
        out_dim=config.out_dim,
        hidden_dim=config.hidden_dim,
        bottleneck_dim=config.bottleneck_dim,
        layers=config.layers,
        batch_norm=config.batch_norm,
        train_gain=config.train_gain,
        dtype=dtype,
        of=config.of,
        linear=config.last_layer == "linear",
    )
