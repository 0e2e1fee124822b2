"""Vectors on the unit sphere, and two measures of them (arXiv:2005.10242, Section 4)."""

import jax
import jax.numpy as jnp


def to_sphere(x: jax.Array, floor: float) -> jax.Array:
    """x / max(||x||, floor) along the last axis, with a finite gradient at zero: [..., D]."""
    squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squares, floor**2))


def alignment(x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean squared distance of the two views of an image.

    Args:
      x: [B, D] float32 of length 1.
      y: [B, D], likewise; row i belongs to row i of `x`.

    Returns:
      Scalar between 0 (equal) and 4.
    """
    return jnp.mean(jnp.sum(jnp.square(x - y), axis=-1))


def uniformity(x: jax.Array) -> jax.Array:
    """Log of the mean of exp(-2 d²) over the distances d of different images.

    Args:
      x: [B, D] float32 of length 1; at least two rows.

    Returns:
      Scalar: 0 if all are equal, about -4 + 8 / D if they are spread evenly; -inf for one row.
    """
    cosines = jnp.einsum("id,jd->ij", x, x, precision="highest")
    other = ~jnp.eye(len(x), dtype=bool)
    total = jax.nn.logsumexp(4 * cosines - 4, where=other)
    return total - jnp.log(float(max(len(x) * (len(x) - 1), 1)))
