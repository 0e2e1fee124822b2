"""Mixup, cutmix, label smoothing and random erasing, on the devices.

Numbers are those of MAE's fine-tuning (arXiv:2111.06377, Appendix A.2), which are timm's.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

ERASED_AREA = (0.02, 1 / 3)  # share of the image (arXiv:1708.04896)
ERASED_RATIO = (0.3, 1 / 0.3)  # height over width, log-uniform
ERASE_TRIES = 10
CUTMIX_SHARE = 0.5  # of the batches, where mixup is on as well


class Mixing(NamedTuple):
    """Which images and targets are made of a batch.

    Attributes:
      mixup: alpha of the Beta distribution of mixup (arXiv:1710.09412); 0: none.
      cutmix: alpha of the Beta distribution of cutmix (arXiv:1905.04899); 0: none.
      smoothing: share of the target that all classes get.
      erase: probability that a box of an image becomes noise.
    """

    mixup: float
    cutmix: float
    smoothing: float
    erase: float


def mix(
    rng: jax.Array, images: jax.Array, labels: jax.Array, classes: int, mixing: Mixing
) -> tuple[jax.Array, jax.Array]:
    """Erases boxes, then mixes the batch with itself in reverse order.

    Args:
      rng: key of the whole batch.
      images: [B, H, W, C] float32, normalized.
      labels: [B] int.
      classes: K.
      mixing: what is done.

    Returns:
      [B, H, W, C] images and [B, K] targets, whose rows sum to 1.
    """
    erase_rng, kind_rng, share_rng, box_rng = jax.random.split(rng, 4)
    images = erase_boxes(erase_rng, images, mixing.erase)
    targets = smooth(labels, classes, mixing.smoothing)
    if not (mixing.mixup or mixing.cutmix):
        return images, targets
    height, width = images.shape[1:3]
    mixup_rng, cutmix_rng = jax.random.split(share_rng)
    blend = _beta(mixup_rng, mixing.mixup)
    box, kept = cut_box(
        jax.random.uniform(box_rng, (2,)), _beta(cutmix_rng, mixing.cutmix), height, width
    )
    probability = CUTMIX_SHARE if mixing.mixup else 1.0
    cuts = jax.random.bernoulli(kind_rng, probability if mixing.cutmix else 0.0)
    own = jnp.where(cuts, 1.0 - box, blend)[..., None]  # share of the image itself, per pixel
    share = jnp.where(cuts, kept, blend)
    return (
        own * images + (1 - own) * images[::-1],
        share * targets + (1 - share) * targets[::-1],
    )


def smooth(labels: jax.Array, classes: int, smoothing: float) -> jax.Array:
    """[B, K] float32 targets: 1 - smoothing in the label's class, and smoothing / K everywhere."""
    return (1 - smoothing) * jax.nn.one_hot(labels, classes) + smoothing / classes


def cut_box(
    place: jax.Array, share: jax.Array, height: int, width: int
) -> tuple[jax.Array, jax.Array]:
    """The box that cutmix takes from the other image.

    Args:
      place: [2] uniform numbers: the center, as shares of height and width.
      share: of the image itself, in [0, 1]; the box has 1 - share of the area before it is clipped.
      height: of the images in pixels.
      width: of the images in pixels.

    Returns:
      [H, W] float32, 1 inside of the box, and the share of the image outside of it.
    """
    sides = jnp.array([height, width])
    half = (sides * jnp.sqrt(1 - share)).astype(jnp.int32) // 2
    center = (place * sides).astype(jnp.int32)
    low, high = jnp.clip(center - half, 0, sides), jnp.clip(center + half, 0, sides)
    box = _box(low, high, height, width)
    return box, 1 - jnp.mean(box)


def erase_boxes(rng: jax.Array, images: jax.Array, probability: float) -> jax.Array:
    """Replaces a box in some of the images by noise of variance 1 (arXiv:1708.04896).

    Boxes that are not smaller than the image are drawn again, up to `ERASE_TRIES` times.

    Args:
      rng: key of the whole batch.
      images: [B, H, W, C] float32, normalized.
      probability: that an image has a box.
    """
    if not probability:
        return images
    count, height, width = images.shape[:3]
    area_rng, ratio_rng, place_rng, which_rng, noise_rng = jax.random.split(rng, 5)
    tries = (count, ERASE_TRIES)
    area = height * width * jax.random.uniform(area_rng, tries, None, *ERASED_AREA)
    low, high = (jnp.log(bound) for bound in ERASED_RATIO)
    ratio = jnp.exp(jax.random.uniform(ratio_rng, tries, minval=low, maxval=high))
    sizes = jnp.round(jnp.sqrt(jnp.stack([area * ratio, area / ratio], axis=-1)))
    fits = (sizes < jnp.array([height, width])).all(axis=-1)
    first = jnp.argmax(fits, axis=1)
    size = jnp.take_along_axis(sizes, first[:, None, None], axis=1)[:, 0]
    room = jnp.array([height, width]) - size + 1
    start = jnp.floor(jax.random.uniform(place_rng, (count, 2)) * room)
    chosen = jax.random.bernoulli(which_rng, probability, (count,)) & fits.any(axis=1)
    boxes = jax.vmap(_box, in_axes=(0, 0, None, None))(start, start + size, height, width)
    noise = jax.random.normal(noise_rng, images.shape)
    erased = (boxes * chosen[:, None, None]).astype(bool)[..., None]
    return jnp.where(erased, noise, images)


def _box(low: jax.Array, high: jax.Array, height: int, width: int) -> jax.Array:
    """[H, W] float32, 1 from low to high (excluded) = (row, column)."""
    rows, columns = jnp.arange(height), jnp.arange(width)
    inside = [(low[i] <= x) & (x < high[i]) for i, x in enumerate((rows, columns))]
    return (inside[0][:, None] & inside[1]).astype(jnp.float32)


def _beta(rng: jax.Array, alpha: float) -> jax.Array:
    return jax.random.beta(rng, alpha, alpha) if alpha else jnp.ones(())
