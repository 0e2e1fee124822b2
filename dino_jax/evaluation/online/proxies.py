"""Quality of the features of held-out images without any labels.

Of the first role: "proxy/retrieval", the share of random views of an image, in percent, that find
another view of it among those of all images (see `views`); "proxy/rankme", the effective rank of
its features (arXiv:2210.02885); "proxy/decay", how fast the eigenvalues of their covariance fall
(α-ReQ, NeurIPS 2022); and "proxy/stability", the mean share of the k nearest neighbors of an image
that it had at the previous measurement; absent at the first one after a start. Of both roles, if
there are two: "proxy/agreement", the mean share of these neighbors that an image has in both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dino_jax.config.section import option
from dino_jax.data.sources import ImagesConfig
from dino_jax.evaluation.label_free import decay_exponent, retrieval
from dino_jax.evaluation.neighbours import nearest_neighbours, shared_neighbours
from dino_jax.evaluation.online import views
from dino_jax.evaluation.online.base import (
    HELD_OUT,
    Context,
    EvaluationConfig,
    Images,
    Metrics,
    Variables,
    check_common,
    check_neighbours,
)
from dino_jax.evaluation.online.views import view_features
from dino_jax.step.health import effective_rank

IMAGES = {"images": "held-out images"}
GUARDS = False


@dataclass(frozen=True)
class Config(EvaluationConfig):
    kind: str = option("proxies", "effective rank and agreement; needs no labels")
    images: ImagesConfig = option(HELD_OUT, "held-out images; labels are not read")
    max_images: int = option(10_000, "more are left out, evenly", at_least=1)
    k: int = option(10, "neighbors to compare", at_least=1, at_most=10_000)
    views: int = option(
        8, "random views of an image that must find the first one; 0: none", at_least=0, at_most=100
    )


def check(where: str, config: Any, context: Context) -> None:
    """Runs the checks without images; raises ValueErrors as `check_common`, or for more roles."""
    check_common(where, config, context)
    if config.views == 1:
        raise ValueError(f"{where}.views is 1, which finds nothing; try --{where}.views=8, or 0")
    if len(context.roles(config)) > 2:
        raise ValueError(f"{where}.of {tuple(config.of)} must name one role, or two to compare")


def build(where: str, config: Any, context: Context) -> "Proxies":
    """Opens the images.

    Args:
      where: name of the section, for messages.
      config: config of the evaluation.
      context: context of the run.

    Raises:
      ValueError: if there are too few images.
      OSError: if there are none.
    """
    images = context.open_images(f"{where}.images", config.images, config, config.max_images)
    check_neighbours(where, config.k, images, "images")
    return Proxies(config, context, images)


class Proxies:
    """See the top of this file."""

    def __init__(self, config: Any, context: Context, images: Images):
        """Starts without an earlier measurement."""
        self._k, self._context, self._images = config.k, context, images
        self._roles, self._views = context.roles(config), config.views
        self._take = partial(
            view_features,
            count=config.views,
            least_area=views.Config.least_area,
            jitter=views.Config.jitter,
        )
        self._before: np.ndarray | None = None

    def __call__(self, step: int, networks: Mapping[str, Variables]) -> Metrics:
        del step
        first, *others = (
            self._context.features(role, networks[role], self._images).features
            for role in self._roles
        )
        neighbours = nearest_neighbours(first, self._k)
        rows = first.astype(np.float64)
        results = {
            "proxy/rankme": effective_rank(rows.T @ rows, precision=np.finfo(np.float64).eps),
            "proxy/decay": decay_exponent(rows),
        }
        for other in others:
            theirs = nearest_neighbours(other, self._k)
            results["proxy/agreement"] = shared_neighbours(neighbours, theirs)
        if self._views:
            seen = self._context.features(
                self._roles[0], networks[self._roles[0]], self._images, self._take
            ).features
            shares = retrieval(seen.reshape(len(seen), self._views, -1))
            results["proxy/retrieval"] = 100.0 * shares
        if self._before is not None:
            results["proxy/stability"] = shared_neighbours(neighbours, self._before)
        self._before = neighbours
        return results
