"""Whether patch features still know their place: a dense score that needs no labels.

Of held-out images, "dense/match/ROLE" is the share of patches, in percent, that find themselves
again: the central part of an image is enlarged to the size of the image, and each of its patches
must be most similar, by cosine, to the patch of the whole image that contains its center. Chance is
100 / patches. "dense/cls_cosine/ROLE" is the mean cosine of an image's patches with its cls token.
In long trainings patches turn into copies of the cls token (DINOv3, arXiv:2508.10104, Section 4):
then the second rises, and the first falls while the accuracy of k-NN goes on rising.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dino_jax.config.section import option
from dino_jax.data.sources import ImagesConfig
from dino_jax.evaluation.online.base import (
    HELD_OUT,
    Context,
    EvaluationConfig,
    Images,
    Metrics,
    Variables,
    check_common,
)
from dino_jax.models.network import Network
from dino_jax.objectives.grid_resize import find_grid
from dino_jax.objectives.sphere import to_sphere

IMAGES = {"images": "held-out images"}
GUARDS = False
FLOOR = 1e-12  # least length that a feature is divided by


@dataclass(frozen=True)
class Config(EvaluationConfig):
    kind: str = option("dense", "whether patches find their place again; needs no labels")
    images: ImagesConfig = option(HELD_OUT, "held-out images; labels are not read")
    max_images: int = option(1000, "more are left out, evenly", at_least=1)
    part: float = option(0.75, "side of the central part over that of the image", above=0, below=1)


def check(where: str, config: Any, context: Context) -> None:
    """Runs the checks that need no images.

    Raises:
      ValueError: as in `check_common`, or if the central part has not one patch.
    """
    check_common(where, config, context)
    size = config.image_size or context.image_size
    for role in context.roles(config):
        patch_size = context.networks[role].backbone.patch_size
        if round(size * config.part) < patch_size:
            raise ValueError(
                f"{where}.part ({config.part:g}) of {size} pixels is smaller than one patch of "
                f"{patch_size}; use a larger one or a larger --{where}.image_size"
            )


def build(where: str, config: Any, context: Context) -> "Dense":
    """Opens the images.

    Args:
      where: name of the section, for messages.
      config: config of the evaluation.
      context: context of the run.

    Raises:
      ValueError: if they cannot be read.
      OSError: if there are none.
    """
    images = context.open_images(f"{where}.images", config.images, config, config.max_images)
    return Dense(config, context, images)


class Dense:
    """See the top of this file."""

    def __init__(self, config: Any, context: Context, images: Images):
        """Measures nothing yet."""
        self._context, self._images = context, images
        self._roles = context.roles(config)
        self._take = partial(score_patches, part=config.part)

    def __call__(self, step: int, networks: Mapping[str, Variables]) -> Metrics:
        results = {}
        for role in self._roles:
            if step == 0 or role not in self._context.frozen:
                match, cosine = self._scores(role, networks[role])
                results |= {f"dense/match/{role}": match, f"dense/cls_cosine/{role}": cosine}
        return results

    def _scores(self, role: str, variables: Variables) -> tuple[float, float]:
        rows = self._context.features(role, variables, self._images, self._take).features
        return 100.0 * float(rows[:, 0].mean()), float(rows[:, 1].mean())


def score_patches(
    network: Network, variables: Variables, images: jax.Array, part: float
) -> jax.Array:
    """Share of patches that find themselves again, and mean cosine with the cls token.

    Args:
      network: the network.
      variables: its variables.
      images: [B, H, W, C] uint8.
      part: side of the central part over that of the image, in (0, 1).

    Returns:
      [B, 2] float32.
    """
    apply: Any = network.apply
    _, height, width, _ = images.shape
    sides = round(height * part), round(width * part)
    top, left = (height - sides[0]) // 2, (width - sides[1]) // 2
    central = images[:, top : top + sides[0], left : left + sides[1]].astype(jnp.float32)
    enlarged = jax.image.resize(central, images.shape, "linear")
    enlarged = jnp.round(jnp.clip(enlarged, 0, 255)).astype(jnp.uint8)
    whole, close = (apply(variables, x) for x in (images, enlarged))
    patches, found = (_on_sphere(x["patches"]) for x in (whole, close))
    cls = _on_sphere(whole["cls"])
    similarity = jnp.einsum("bnd,bmd->bnm", found, patches, precision="highest")
    grid = find_grid(height, width, patches.shape[1])
    places = find_places(grid, (top / height, left / width), part)
    match = jnp.mean(jnp.argmax(similarity, axis=-1) == places, axis=-1)
    cosine = jnp.mean(jnp.einsum("bnd,bd->bn", patches, cls, precision="highest"), axis=-1)
    return jnp.stack([match, cosine], axis=-1)


def find_places(grid: tuple[int, int], start: tuple[float, float], part: float) -> np.ndarray:
    """The patch of the whole image that contains the center of each patch of a part of it.

    Args:
      grid: (rows, columns) of both.
      start: (top, left) of the part over the height and the width of the image.
      part: its side over that of the image.

    Returns:
      [N] int, row by row.
    """
    rows, columns = (
        np.floor((first + part * (np.arange(count) + 0.5) / count) * count).astype(int)
        for first, count in zip(start, grid, strict=True)
    )
    return (rows[:, None] * grid[1] + columns[None, :]).reshape(-1)


def _on_sphere(x: jax.Array) -> jax.Array:
    return to_sphere(x.astype(jnp.float32), FLOOR)
