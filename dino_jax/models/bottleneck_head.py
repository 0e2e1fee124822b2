"""Heads of kind "bottleneck": that of DINO without prototypes (SimDINO, arXiv:2502.10385)."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from dino_jax.config.range import MOST_WIDTH
from dino_jax.config.section import option
from dino_jax.models.dino_head import run_mlp
from dino_jax.models.layers import Dtype, l2_normalize


@dataclass(frozen=True)
class Config:
    """A section of `config.network.heads` of kind "bottleneck"."""

    kind: str = option("bottleneck", "MLP to unit vectors: DINO's head without prototypes")
    of: str = option("cls", "what it takes: cls | patches | the name of another head")
    out_dim: int = option(256, "width of its output", at_least=1, at_most=MOST_WIDTH)
    hidden_dim: int = option(2048, "width of the hidden layers", at_least=1, at_most=MOST_WIDTH)
    layers: int = option(3, "linear layers", at_least=1, at_most=100)
    batch_norm: bool = option(False, "BatchNorm after each hidden layer")


class BottleneckHead(nn.Module):
    """MLP and L2 normalization.

    Attributes:
      out_dim: K, width of the output.
      hidden_dim: width of the hidden layers.
      layers: linear layers, at least 1; GELU (erf) between them.
      batch_norm: BatchNorm after each hidden layer, over all rows of a call.
      dtype: dtype of the activations; parameters and the output are float32.
      of: its input, see `Head`.
      rounds: whether products have rounded operands, see `products`.
    """

    out_dim: int
    hidden_dim: int
    layers: int
    batch_norm: bool
    dtype: Dtype = jnp.float32
    of: str = "cls"
    rounds: bool = False

    @property
    def row_wise(self) -> bool:
        """Whether it treats every row on its own: BatchNorm looks at all."""
        return not self.batch_norm

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., K] float32 unit vectors."""
        widths = (self.hidden_dim,) * (self.layers - 1) + (self.out_dim,)
        return l2_normalize(run_mlp(x, widths, self.batch_norm, self.dtype, self.rounds))


def build(config: Config, dtype: Dtype) -> BottleneckHead:
    """Builds a head.

    Args:
      config: the section.
      dtype: dtype of the activations.
    """
    return BottleneckHead(
        config.out_dim, config.hidden_dim, config.layers, config.batch_norm, dtype, config.of
    )
