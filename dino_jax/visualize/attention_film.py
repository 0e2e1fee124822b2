"""Where the cls token looks in a film: frame by frame, mean over the heads, over the picture."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dino_jax.evaluation.image_files import BatchEmbedder
from dino_jax.models.network import Network
from dino_jax.visualize.attention import cls_to_patches, overlay_attention
from dino_jax.visualize.inputs import fit_to_patches
from dino_jax.visualize.pictures import enlarge_whole
from dino_jax.weights.model import Model


def overlay_frames(model: Model, frames: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Draws the attention over frames; one frame per device at a time.

    Args:
      model: a ViT.
      frames: [H, W, 3] uint8, all of one shape.
      size: see `inputs.fit_to_patches`.

    Yields:
      [H', W', 3] uint8, in order.

    Raises:
      ValueError: if a frame has another shape, or the model is not a ViT.
    """
    look, patch_size = BatchEmbedder(model, mean_attention), model.network.backbone.patch_size
    stream = same_shape(frames)
    while batch := list(itertools.islice(stream, jax.local_device_count())):
        images = [fit_to_patches(frame, size, patch_size) for frame in batch]
        for image, attention in zip(images, look(np.stack(images)), strict=True):
            yield overlay_attention(enlarge_whole(image), attention)


def mean_attention(network: Network, variables: Any, images: jax.Array) -> jax.Array:
    """[B, h, w] attention of the cls token in the last block, mean of the heads."""
    weights: Any = network.apply(variables, images, method="attention")
    patch_size = network.backbone.patch_size
    grid = images.shape[1] // patch_size, images.shape[2] // patch_size
    return cls_to_patches(weights, grid).astype(jnp.float32).mean(axis=1)


def same_shape(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields frames as long as they have the shape of the first.

    Raises:
      ValueError: if a frame has another shape.
    """
    shape = None
    for number, frame in enumerate(frames, 1):
        shape = shape or frame.shape
        if frame.shape != shape:
            raise ValueError(
                f"frame {number} has {frame.shape[0]} x {frame.shape[1]} pixels, the first one "
                f"{shape[0]} x {shape[1]}; a film has frames of one size"
            )
        yield frame
