"""A head of class vectors: cosines with the centers of classes, for losses with labels."""

import flax.linen as nn
import jax
import jax.numpy as jnp

LEAST_LENGTH = 1e-12


class ClassHead(nn.Module):
    """Cosines of rows with `out_dim` vectors.

    Attributes:
      out_dim: number of vectors; those of a class are neighbours.
      of: its input, see `Head`.
    """

    out_dim: int
    of: str = "cls"

    @property
    def row_wise(self) -> bool:
        return True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., K] float32."""
        first = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=1, out_axis=0)
        vectors = self.param("vectors", first, (self.out_dim, x.shape[-1]))
        return jnp.einsum(
            "...d,kd->...k", _to_unit(x.astype(jnp.float32)), _to_unit(vectors), precision="highest"
        )


def _to_unit(x: jax.Array) -> jax.Array:
    squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squares, LEAST_LENGTH**2))
