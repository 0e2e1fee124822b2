"""Whether a network knows an image again in other views of it: needs no labels.

Of each held-out image `count` random parts are taken, enlarged to the size of the image, darker or
brighter, always the same ones. "views/retrieval/ROLE" is the share of views, in percent, whose most
similar first view among those of all images is that of their own; chance is 100 / images.
"views/lidar/ROLE" is LiDAR (arXiv:2312.04000), the effective rank of what tells images apart
whatever the view. Both see an invariance that training asks for, on images that it does not see.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from dino_jax.config.section import option
from dino_jax.data.sources import ImagesConfig
from dino_jax.evaluation.label_free import lidar, retrieval
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

IMAGES = {"images": "held-out images"}
GUARDS = False
SEED = 0


@dataclass(frozen=True)
class Config(EvaluationConfig):
    kind: str = option("views", "whether views of an image find each other; needs no labels")
    images: ImagesConfig = option(HELD_OUT, "held-out images; labels are not read")
    max_images: int = option(1000, "more are left out, evenly", at_least=2)
    count: int = option(8, "views of an image", at_least=2, at_most=100)
    least_area: float = option(0.3, "of a view over that of its image", above=0, at_most=1)
    jitter: float = option(0.4, "largest change of brightness and contrast", at_least=0, below=1)


def check(where: str, config: Any, context: Context) -> None:
    """Runs the checks that need no images; raises ValueErrors as `check_common`."""
    check_common(where, config, context)


def build(where: str, config: Any, context: Context) -> "Views":
    """Opens the images.

    Args:
      where: name of the section, for messages.
      config: config of the evaluation.
      context: context of the run.

    Raises:
      ValueError: if they cannot be read, or there is one image only.
      OSError: if there are none.
    """
    images = context.open_images(f"{where}.images", config.images, config, config.max_images)
    if images.count < 2:
        raise ValueError(f"{where}.images has one image, which cannot be confused; add images")
    return Views(config, context, images)


class Views:
    """See the top of this file."""

    def __init__(self, config: Any, context: Context, images: Images):
        """Measures nothing yet."""
        self._context, self._images, self._count = context, images, config.count
        self._roles = context.roles(config)
        self._take = partial(
            view_features,
            count=config.count,
            least_area=config.least_area,
            jitter=config.jitter,
        )

    def __call__(self, step: int, networks: Mapping[str, Variables]) -> Metrics:
        results = {}
        for role in self._roles:
            if step == 0 or role not in self._context.frozen:
                found = self._context.features(role, networks[role], self._images, self._take)
                views = found.features.reshape(len(found.features), self._count, -1)
                results[f"views/retrieval/{role}"] = 100.0 * retrieval(views)
                results[f"views/lidar/{role}"] = lidar(views)
        return results


def view_features(
    network: Network,
    variables: Variables,
    images: jax.Array,
    count: int,
    least_area: float,
    jitter: float,
) -> jax.Array:
    """Cls tokens of random views of images.

    Args:
      network: the network.
      variables: its variables.
      images: [B, H, W, C] uint8.
      count: Q, views per image.
      least_area: least share of the image in a view, in (0, 1].
      jitter: largest relative change of brightness and of contrast.

    Returns:
      [B, Q * D] float32, view by view; view q of position b in a batch is always the same.
    """
    apply: Any = network.apply

    def features_of(key):
        return apply(variables, draw_views(key, images, least_area, jitter))["cls"]

    keys = jax.random.split(jax.random.key(SEED), count)
    features = jax.lax.map(features_of, keys).astype(jnp.float32)  # [Q, B, D]
    return features.swapaxes(0, 1).reshape(len(images), -1)


def draw_views(key: jax.Array, images: jax.Array, least_area: float, jitter: float) -> jax.Array:
    """One random view of each image; for the arguments see `view_features`.

    Args:
      key: of the random numbers.
      images: [B, H, W, C] uint8.
      least_area: least share of the image in a view.
      jitter: largest relative change of brightness and of contrast.

    Returns:
      [B, H, W, C] uint8.
    """
    draws = jax.random.uniform(key, (5, len(images)))
    sides = jnp.sqrt(least_area + (1 - least_area) * draws[0])
    starts = draws[1:3] * (1 - sides)  # [2, B], of top and left
    brightness, contrast = 1 + jitter * (2 * draws[3:] - 1)
    view = jax.vmap(_view)
    return view(images, sides, starts.T, brightness, contrast)


def _view(image, side, start, brightness, contrast):
    shape = jnp.asarray(image.shape[:2], jnp.float32)
    part = jax.image.scale_and_translate(
        image.astype(jnp.float32),
        image.shape,
        (0, 1),
        jnp.broadcast_to(1 / side, (2,)),
        -start * shape / side,
        "linear",
    )
    bright = jnp.clip(part * brightness, 0, 255)
    mean = jnp.mean(bright)
    return jnp.round(jnp.clip(mean + (bright - mean) * contrast, 0, 255)).astype(jnp.uint8)
