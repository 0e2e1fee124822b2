"""Heads of kind "mlp": projectors and predictors without prototypes.

SimCLR (arXiv:2002.05709), BYOL (arXiv:2006.07733) and MoCo v3 (arXiv:2104.02057) have such heads; a
predictor is one that takes another head.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from dino_jax.config.range import MOST_WIDTH
from dino_jax.config.section import option
from dino_jax.models.layers import BatchNorm, Dtype, matmul_precision
from dino_jax.models.products import rounded_dot_general

# Standard deviation of a standard normal distribution cut off at -2 and 2. Flax divides by it, so
# that kernels have the variance asked for; Haiku, in which BYOL was trained, does not.
TRUNCATED = 0.87962566103423978
# Initial values of the kernels; biases start at 0.
KERNELS = {
    "uniform": nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),  # torch, MoCo v3
    "truncated": nn.initializers.variance_scaling(  # BYOL
        TRUNCATED**2, "fan_in", "truncated_normal"
    ),
    "normal": nn.initializers.normal(0.01),  # SimCLR
}
# (scale, bias) of the BatchNorm after the last layer.
LAST_NORMS = {"plain": (False, False), "scale": (True, False), "affine": (True, True)}


@dataclass(frozen=True)
class Config:
    """A section of `config.network.heads` of kind "mlp"."""

    kind: str = option("mlp", "MLP: projectors and predictors")
    of: str = option("cls", "what it takes: cls | patches | the name of another head")
    out_dim: int = option(256, "width of its output", at_least=1, at_most=MOST_WIDTH)
    hidden_dim: int = option(4096, "width of the hidden layers", at_least=1, at_most=MOST_WIDTH)
    layers: int = option(2, "linear layers; ReLU between them", at_least=1, at_most=100)
    batch_norm: bool = option(True, "BatchNorm after each hidden layer")
    hidden_bias: bool = option(False, "biases of the hidden layers (BYOL)")
    last_norm: str = option(
        "none",
        "BatchNorm after the last layer: none | plain (no scale, no bias) | scale | affine (both)",
        among=("none", *LAST_NORMS),
    )
    first_kernels: str = option(
        "uniform", "uniform (MoCo v3) | truncated (BYOL) | normal (SimCLR)", among=KERNELS
    )


class MlpHead(nn.Module):
    """[Linear, BatchNorm, ReLU] for the hidden layers, a linear layer without bias, BatchNorm.

    BatchNorm uses and tracks the statistics of all rows of a call.

    Attributes:
      out_dim: K, width of the output.
      hidden_dim: width of the hidden layers.
      layers: linear layers, at least 1.
      batch_norm: BatchNorm after each hidden layer.
      hidden_bias: biases of the hidden layers.
      last_norm: BatchNorm after the last layer, "none" or a key of `LAST_NORMS`.
      first_kernels: a key of `KERNELS`.
      dtype: dtype of the activations; parameters and the output are float32.
      of: its input, see `Head`.
      rounds: whether products have rounded operands, see `products`.
    """

    out_dim: int
    hidden_dim: int
    layers: int = 2
    batch_norm: bool = True
    hidden_bias: bool = False
    last_norm: str = "none"
    first_kernels: str = "uniform"
    dtype: Dtype = jnp.float32
    of: str = "cls"
    rounds: bool = False

    @property
    def row_wise(self) -> bool:
        """Whether it treats every row on its own: BatchNorm looks at all."""
        hidden_norm = self.batch_norm and self.layers > 1
        return not hidden_norm and self.last_norm == "none"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., K] float32."""
        for index in range(self.layers - 1):
            x = self._linear(index, self.hidden_dim, self.hidden_bias)(x)
            if self.batch_norm:
                x = BatchNorm(dtype=self.dtype, name=f"norm_{index}")(x)
            x = nn.relu(x)
        last = self.layers - 1
        x = self._linear(last, self.out_dim, False)(x).astype(jnp.float32)
        if self.last_norm == "none":
            return x
        scale, bias = LAST_NORMS[self.last_norm]
        return BatchNorm(use_scale=scale, use_bias=bias, name=f"norm_{last}")(x)

    def _linear(self, index: int, width: int, use_bias: bool) -> nn.Dense:
        return nn.Dense(
            width,
            use_bias=use_bias,
            dtype=self.dtype,
            kernel_init=KERNELS[self.first_kernels],
            precision=matmul_precision(self.dtype),
            dot_general=rounded_dot_general if self.rounds else None,
            name=f"linear_{index}",
        )


def build(config: Config, dtype: Dtype) -> MlpHead:
    """Builds a head.

    Args:
      config: the section.
      dtype: dtype of the activations.
    """
    return MlpHead(
        out_dim=config.out_dim,
        hidden_dim=config.hidden_dim,
        layers=config.layers,
        batch_norm=config.batch_norm,
        hidden_bias=config.hidden_bias,
        last_norm=config.last_norm,
        first_kernels=config.first_kernels,
        dtype=dtype,
        of=config.of,
    )
