"""Object masks carried from the first frame of a video to all others by features alone.

DINO (arXiv:2104.14294, Section 4.2.1) after arXiv:2006.14613: every patch takes the labels of the
most similar nearby patches of earlier frames. No training.
"""

import collections
from collections.abc import Iterable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from dino_jax.evaluation.bilinear import resize
from dino_jax.evaluation.options.video_segmentation import Propagation


@partial(jax.jit, static_argnames=("propagation",))
def propagate_labels(
    target: jax.Array,
    sources: jax.Array,
    labels: jax.Array,
    propagation: Propagation = Propagation(),  # noqa: B008, immutable
    valid: jax.Array | None = None,
) -> jax.Array:
    """Computes labels of one frame from those of others.

    A source weighs exp(cosine / temperature); weights of the `top_k` heaviest sum to 1.

    Args:
      target: [h, w, D] patch features of the frame.
      sources: [F, h, w, D] patch features of the others.
      labels: [F, h, w, C] their labels, which may be soft.
      propagation: options.
      valid: bool [F], sources that exist; all by default.

    Returns:
      [h, w, C] float32 soft labels.
    """
    frames, height, width, channels = labels.shape
    count = frames * height * width
    keys = _unit(sources).reshape(count, -1)
    exists = jnp.ones(frames, bool) if valid is None else valid
    exists = jnp.repeat(exists, height * width)
    values = labels.reshape(count, channels).astype(jnp.float32)
    columns = jnp.abs(jnp.arange(width)[:, None] - jnp.arange(width))
    far_columns = jnp.tile(columns, (1, frames * height)) > propagation.radius

    def propagate_row(inputs: tuple[jax.Array, jax.Array]) -> jax.Array:
        """[w, C] labels of one row of patches; all similarities at once would not fit."""
        row, queries = inputs
        rows = jnp.tile(jnp.repeat(jnp.abs(jnp.arange(height) - row), width), frames)
        cosine = jnp.matmul(queries, keys.T, precision="highest")
        weights = jnp.exp(cosine / propagation.temperature) * exists
        if propagation.radius:
            near = ~far_columns & (rows <= propagation.radius)
            weights = weights * near
        smallest = jax.lax.top_k(weights, min(propagation.top_k, count))[0][:, -1:]
        weights = jnp.where(weights >= smallest, weights, 0.0)
        weights = weights / jnp.sum(weights, axis=1, keepdims=True)
        return jnp.matmul(weights, values, precision="highest")

    return jax.lax.map(propagate_row, (jnp.arange(height), _unit(target)))


def follow_objects(
    features: Iterable[np.ndarray], first: np.ndarray, propagation: Propagation
) -> Iterator[jax.Array]:
    """Carries the labels of the first frame through a video.

    Args:
      features: [h, w, D] of every frame, in order.
      first: [h, w, C] labels of the first frame.
      propagation: options.

    Yields:
      [h, w, C] soft labels of the second frame, the third, …
    """
    frames = iter(features)
    origin = next(frames), jnp.asarray(first)
    recent: collections.deque = collections.deque(maxlen=propagation.frames)
    for target in frames:
        context = [origin, *recent]
        missing = propagation.frames - len(recent)  # a constant number: compiles once
        valid = np.arange(1 + propagation.frames) < len(context)
        sources, labels = zip(*context, *[origin] * missing, strict=True)
        new = propagate_labels(target, jnp.stack(sources), jnp.stack(labels), propagation, valid)
        recent.append((target, new))
        yield new


def shrink_mask(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The objects of a mask as labels of patches.

    Args:
      mask: [H, W] uint8, 0 for background, 1 to C - 1 for objects.
      grid: (h, w) patches; the mask is sampled at the nearest pixel.

    Returns:
      [h, w, C] float32, one-hot.
    """
    height, width = grid
    small = np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    channels = int(small.max()) + 1
    return np.eye(channels, dtype=np.float32)[small]


@partial(jax.jit, static_argnames=("patch_size",))
def decide(labels: jax.Array, patch_size: int) -> jax.Array:
    """The object of every pixel.

    Labels are enlarged bilinearly, and those of every object are stretched to [0, 1] before the
    largest wins, so that small objects, whose labels stay low, are not lost.

    Args:
      labels: [h, w, C] soft labels.
      patch_size: pixels per patch.

    Returns:
      [h * patch_size, w * patch_size] uint8.
    """
    height, width, _ = labels.shape
    large = resize(labels, height * patch_size, width * patch_size)
    smallest = jnp.min(large, axis=(0, 1))
    stretch = jnp.max(large, axis=(0, 1)) - smallest
    # An object that is nowhere stays unchanged; one that is uniform everywhere gets 0.
    stretched = jnp.where(stretch > 0, (large - smallest) / jnp.maximum(stretch, 1e-30), 0.0)
    return jnp.argmax(stretched, axis=-1).astype(jnp.uint8)


def _unit(features: jax.Array) -> jax.Array:
    features = jnp.asarray(features, jnp.float32)
    norm = jnp.linalg.norm(features, axis=-1, keepdims=True)
    return features / jnp.maximum(norm, 1e-12)
