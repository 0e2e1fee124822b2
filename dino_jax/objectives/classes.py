"""Losses of cosines between rows and learned vectors of classes: softmax with margins, and proxies.

A row's own class has to win by a margin. The values equal those of pytorch-metric-learning 2.9.0.
Under jit the batch is that of all devices, and so are the means and sums.
"""

import math

import jax
import jax.numpy as jnp

from dino_jax.objectives.pairs import LEFT_OUT, mean_of

LEAST_SINE = 1e-7  # the angle's slope by its cosine is 1 / sine


def best_centers(similar: jax.Array, centers: int) -> jax.Array:
    """The nearest center of each class (sub-center ArcFace, Deng et al. 2020, Section 3.2).

    Args:
      similar: [B, C * centers] cosines; those of class c begin with column c * centers.
      centers: per class.

    Returns:
      [B, C].
    """
    return jnp.max(similar.reshape(len(similar), -1, centers), axis=-1)


def arc_margin(similar: jax.Array, margin: float) -> jax.Array:
    """cos(t + m) by cos t; beyond t = pi - m, where it would rise again, cos t - m sin m.

    (ArcFace, arXiv:1801.07698, Eq. 3, with the official code's way past pi - m.)

    Args:
      similar: cosines, any shape.
      margin: m in radians.
    """
    sines = jnp.sqrt(jnp.maximum(1 - jnp.square(similar), LEAST_SINE**2))
    turned = similar * math.cos(margin) - sines * math.sin(margin)
    return jnp.where(similar >= -math.cos(margin), turned, similar - margin * math.sin(margin))


def cosine_margin(similar: jax.Array, margin: float) -> jax.Array:
    """cos t - m (CosFace, arXiv:1801.09414, Eq. 4)."""
    return similar - margin


def margin_softmax(
    similar: jax.Array, own: jax.Array, labels: jax.Array, scale: float
) -> jax.Array:
    """Cross-entropy of scaled cosines, with another value for the own class.

    Args:
      similar: [B, C] cosines with the classes.
      own: [B, C], of which the column of the own class is taken.
      labels: int32 [B].
      scale: of the cosines, > 0.

    Returns:
      Mean over the rows.
    """
    is_own = labels[:, None] == jnp.arange(similar.shape[1])[None, :]
    logits = scale * jnp.where(is_own, own, similar)
    return -jnp.mean(jnp.sum(jnp.where(is_own, jax.nn.log_softmax(logits), 0), axis=-1))


def arcface(similar: jax.Array, labels: jax.Array, margin: float, scale: float) -> jax.Array:
    """ArcFace (arXiv:1801.07698); `margin` in radians, see `margin_softmax` for the others."""
    return margin_softmax(similar, arc_margin(similar, margin), labels, scale)


def cosface(similar: jax.Array, labels: jax.Array, margin: float, scale: float) -> jax.Array:
    """CosFace (arXiv:1801.09414); `margin` is a cosine, see `margin_softmax` for the others."""
    return margin_softmax(similar, cosine_margin(similar, margin), labels, scale)


def normalized_softmax(similar: jax.Array, labels: jax.Array, temperature: float) -> jax.Array:
    """Softmax over cosines (arXiv:1811.12649, Eq. 4)."""
    return margin_softmax(similar, similar, labels, 1 / temperature)


def proxy_anchor(similar: jax.Array, labels: jax.Array, margin: float, alpha: float) -> jax.Array:
    """Proxy anchor loss (arXiv:2003.13911, Eq. 4).

    Args:
      similar: [B, C] cosines of rows and the proxies of classes.
      labels: int32 [B].
      margin: on both sides, a cosine.
      alpha: sharpness, > 0.

    Returns:
      The mean over proxies with a row in the batch and that over all proxies, added.
    """
    own = labels[:, None] == jnp.arange(similar.shape[1])[None, :]
    near = jnp.where(own, -alpha * (similar - margin), LEFT_OUT)
    far = jnp.where(own, LEFT_OUT, alpha * (similar + margin))
    pulled, pushed = (jax.nn.softplus(jax.nn.logsumexp(x, axis=0)) for x in (near, far))
    return mean_of(pulled, jnp.any(own, axis=0)) + jnp.mean(pushed)
