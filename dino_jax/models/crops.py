"""The input of a backbone."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

LOCAL = "local"  # the group whose cls tokens may have a norm of their own


class Crops(NamedTuple):
    """Crops of one size.

    Attributes:
      images: [B, H, W, C]
      masks: bool [B, N], patches that the mask token replaces, if any.
      visible: int32 [B, k], different indices of the patches that are encoded, in the order of the
        features; None for all. Positions are those in the whole image.
      group: name of the group that they belong to, if any.
    """

    images: jax.Array
    masks: jax.Array | None = None
    visible: jax.Array | None = None
    group: str | None = None


def check_masks(masks: jax.Array, patches: jax.Array, has_mask_token: bool) -> None:
    """Checks masks for a backbone.

    Args:
      masks: see `Crops`.
      patches: [B, N, D]
      has_mask_token: whether the backbone has what replaces patches.

    Raises:
      ValueError: if it has not, or they have another shape or dtype.
    """
    if not has_mask_token:
        raise ValueError("masks need network.backbone.has_mask_token=True")
    if masks.shape != patches.shape[:2] or masks.dtype != bool:
        raise ValueError(
            f"masks must be bool {patches.shape[:2]} (images, patches), "
            f"got {masks.dtype} {masks.shape}"
        )


def check_visible(visible: jax.Array, patches: jax.Array, drops_patches: bool) -> None:
    """Checks indices of visible patches for a backbone.

    Args:
      visible: see `Crops`.
      patches: [B, N, D]
      drops_patches: whether the backbone can leave patches out.

    Raises:
      ValueError: if it cannot, or they have another shape or dtype.
    """
    if not drops_patches:
        raise ValueError("a ViT with position='rope' cannot leave patches out; use a table")
    batch, count = patches.shape[:2]
    fits = visible.ndim == 2 and len(visible) == batch and visible.shape[1] <= count
    if not fits or visible.dtype != jnp.int32:
        raise ValueError(
            f"visible must be int32 [{batch} images, up to {count} patches], "
            f"got {visible.dtype} {visible.shape}"
        )
