"""Depth as an expectation over bins, its loss and its errors (as DINOv2 evaluates it)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dino_jax.evaluation.bilinear import resize

UPSAMPLE = 4  # of the patch features before the linear map
LOG_EPSILON, MEAN_WEIGHT = 1e-3, 0.15  # of the scale-invariant loss
MEAN_ONLY_STEPS = 100  # at first the loss has no variance term
PROBABILITY_FLOOR = 0.1


class Range(NamedTuple):
    """Range of depths in meters, and the number of bins."""

    smallest: float
    largest: float
    bins: int


def expected_depth(logits: jax.Array, depths: Range) -> jax.Array:
    """Depth from the logits of uniform bins.

    The official head enlarges features before its linear map; enlarging the logits is the same.

    Args:
      logits: [B, h, w, bins] of the patches.
      depths: range and bins.

    Returns:
      [B, 4 h, 4 w] meters.
    """
    _, height, width, _ = logits.shape
    large = resize(logits, UPSAMPLE * height, UPSAMPLE * width)
    weights = jax.nn.relu(large) + PROBABILITY_FLOOR
    centers = jnp.linspace(depths.smallest, depths.largest, depths.bins)
    return weights @ centers / weights.sum(axis=-1)


def sig_loss(predicted: jax.Array, truth: jax.Array, step: jax.Array) -> jax.Array:
    """Scale-invariant logarithmic loss (arXiv:1406.2283, Eq. 4, as BTS takes its root).

    sqrt(var(g) + 0.15 mean(g)^2) with g = log ratio, over all pixels with a depth; without the
    variance in the first 100 steps.

    Args:
      predicted: [B, H, W] meters, > 0.
      truth: [B, H, W] meters, 0 where unknown.
      step: finished updates.
    """
    counts = truth > 0
    ratio = jnp.log(predicted + LOG_EPSILON) - jnp.log(jnp.where(counts, truth, 1.0) + LOG_EPSILON)
    number = jnp.maximum(jnp.sum(counts), 2)
    mean = jnp.sum(ratio * counts) / number
    variance = jnp.sum(jnp.square(ratio - mean) * counts) / (number - 1)
    inside = MEAN_WEIGHT * jnp.square(mean) + jnp.where(step < MEAN_ONLY_STEPS, 0.0, variance)
    return jnp.sqrt(jnp.maximum(inside, 1e-12))  # the root has no gradient at 0


def depth_errors(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Errors of one image over the pixels whose depth is known.

    Args:
      predicted: [H, W] meters, > 0.
      truth: [H, W] meters, 0 where unknown.

    Returns:
      rmse in meters, abs_rel, and the shares delta1 to delta3 of pixels off by a factor below
      1.25, 1.25 ** 2 and 1.25 ** 3.

    Raises:
      ValueError: if no depth is known.
    """
    counts = truth > 0
    if not counts.any():
        raise ValueError("no pixel has a depth")
    ours, theirs = predicted[counts].astype(np.float64), truth[counts].astype(np.float64)
    factor = np.maximum(ours / theirs, theirs / ours)
    return {
        "rmse": float(np.sqrt(np.mean((ours - theirs) ** 2))),
        "abs_rel": float(np.mean(np.abs(ours - theirs) / theirs)),
        **{f"delta{power}": float(np.mean(factor < 1.25**power)) for power in (1, 2, 3)},
    }
