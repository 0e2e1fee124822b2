"""Centering and sharpening of teacher logits (arXiv:2104.14294, Section 3.1)."""

import jax
import jax.numpy as jnp


def center_and_sharpen(logits: jax.Array, center: jax.Array, temperature: jax.Array) -> jax.Array:
    """softmax((logits - center) / temperature) without gradient.

    Args:
      logits: [..., K] float32 teacher logits.
      center: [K] float32.
      temperature: scalar, > 0.

    Returns:
      [..., K] float32 probabilities.
    """
    return jax.nn.softmax(jax.lax.stop_gradient(logits - center) / temperature, axis=-1)


def update_center(center: jax.Array, logits: jax.Array, momentum: float) -> jax.Array:
    """EMA of the batch mean of the raw teacher logits (Eq. 4).

    Under jit the mean is the mean over the global batch.

    Args:
      center: [K] float32.
      logits: [..., K] float32 teacher logits, neither centered nor divided by a temperature.
      momentum: share of the old center, in [0, 1).

    Returns:
      [K] the next center.
    """
    mean = jnp.mean(jax.lax.stop_gradient(logits), axis=tuple(range(logits.ndim - 1)))
    return momentum * center + (1.0 - momentum) * mean


def entropy(probabilities: jax.Array) -> jax.Array:
    """[..., K] -> [...] Shannon entropy in nats; 0 log 0 = 0."""
    return jnp.sum(jax.scipy.special.entr(probabilities), axis=-1)
