"""What a run has gained over the network that it continues, on held-out images, with an interval.

A frozen role is that network. Every held-out image is asked for something that is either found or
not, and the difference of the shares has the interval of `dino_jax.evaluation.paired`:

labels  its class, by the votes of its k nearest other held-out images (arXiv:1805.01978, 3.4)
pairs   another image with its label, such as of the same product, as the very nearest (Recall@1)
views   its other random view (views.py) among those of all images, both ways; needs no labels. That
        is a proxy: it says that an image is recognised in other framing and light, not that images
        of one kind are alike.

A class or a pair may be found more often by features that are otherwise destroyed, where the start
found hardly any. So with labels and pairs, views are asked for, too: what recognises photos less
than the start, beyond the uncertainty of that, is worth nothing, whatever else it finds.

Metrics of a role, shares in [0, 1]: "gain/ROLE", the ends of its interval "gain_low/ROLE" and
"gain_high/ROLE", "found/ROLE", and "found/START" of the frozen one; "recognised/ROLE", the gain of
the views, and the upper end "recognised_high/ROLE"; "worth/ROLE", the gain, or -1 if that end is
below 0: the best checkpoint is the one with the largest.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from dino_jax.config.section import option
from dino_jax.data.sources import ImagesConfig
from dino_jax.evaluation.features import LabeledFeatures
from dino_jax.evaluation.knn import leave_one_out_ranks, normalize_rows
from dino_jax.evaluation.online.base import (
    HELD_OUT,
    Context,
    EvaluationConfig,
    Images,
    Metrics,
    Variables,
    check_common,
)
from dino_jax.evaluation.online.views import view_features
from dino_jax.evaluation.paired import compare

IMAGES = {"images": "held-out images"}
GUARDS = False
ROWS_AT_ONCE = 1024  # of a product of similarities
VIEWS = 2  # of an image
WORTHLESS = -1.0  # less than any gain
FEWEST = 2  # images, for there to be others

Hits = tuple[np.ndarray, np.ndarray]  # [Q] bool, and [Q] which queries belong together


@dataclass(frozen=True)
class Config(EvaluationConfig):
    kind: str = option("gain", "what a role gained over a frozen one, with an interval")
    images: ImagesConfig = option(HELD_OUT, "held-out images")
    max_images: int = option(10_000, "more are left out, evenly", at_least=FEWEST)
    by: Literal["labels", "pairs", "views"] = option(
        "views", "what is asked for: labels | pairs (images with one label) | views (no labels)"
    )
    start: str = option("start", "frozen role that is compared with")
    k: int = option(10, "labels: neighbors that vote", at_least=1, at_most=10_000)
    temperature: float = option(0.07, "labels: of their votes", at_least=1e-3, at_most=1000)
    looks: int = option(
        1, "evaluations of which the best is taken; intervals allow for it", at_least=1
    )
    least_area: float = option(0.15, "views: of a view over that of its image", above=0, at_most=1)
    jitter: float = option(
        0.4, "views: largest change of brightness and contrast", at_least=0, below=1
    )


def check(where: str, config: Any, context: Context) -> None:
    """Runs the checks that need no images.

    Raises:
      ValueError: as in `check_common`, or if the role to compare with is not a frozen one.
    """
    check_common(where, config, context)
    if config.start not in context.frozen:
        raise ValueError(
            f"{where}.start is {config.start!r}; frozen roles of config.roles: "
            f"{sorted(context.frozen)}"
        )


def build(where: str, config: Any, context: Context) -> "GainOverStart":
    """Opens the images.

    Raises:
      ValueError: if labels are needed and missing, or there are too few images.
      OSError: if there are none.
    """
    images = context.open_images(f"{where}.images", config.images, config, config.max_images)
    if config.by != "views" and not images.source.class_names:
        raise ValueError(
            f"{where}.images has no labels: put its images into one folder per class, or use "
            f"--{where}.by=views"
        )
    least = config.k + 1 if config.by == "labels" else FEWEST
    if images.count < least:
        raise ValueError(f"{where}.images has {images.count} images; at least {least} are needed")
    return GainOverStart(config, context, images)


class GainOverStart:
    """See the top of this file."""

    def __init__(self, config: Any, context: Context, images: Images):
        """Measures nothing yet."""
        self._config, self._context, self._images = config, context, images
        self._view = partial(
            view_features, count=VIEWS, least_area=config.least_area, jitter=config.jitter
        )
        self._before: dict[str, Hits] | None = None  # of the start, by question

    def __call__(self, step: int, networks: Mapping[str, Variables]) -> Metrics:
        start, by = self._config.start, self._config.by
        if self._before is None:
            self._before = self._ask(start, networks[start])
        before = self._before
        found = {f"found/{start}": float(np.mean(before[by][0]))}
        for role in self._context.roles(self._config):
            after = self._ask(role, networks[role])
            gains = {
                name: compare(before[name][0], hits, groups, self._config.looks)
                for name, (hits, groups) in after.items()
            }
            gain, views = gains[by], gains["views"]
            found |= {
                f"gain/{role}": gain.mean,
                f"gain_low/{role}": gain.low,
                f"gain_high/{role}": gain.high,
                f"found/{role}": float(np.mean(after[by][0])),
                f"recognised/{role}": views.mean,
                f"recognised_high/{role}": views.high,
                f"worth/{role}": gain.mean if views.high >= 0 else WORTHLESS,
            }
        return found

    def _ask(self, role: str, variables: Variables) -> dict[str, Hits]:
        """What is found, by question."""
        config, features = self._config, self._context.features
        found = {
            "views": hits_of_views(features(role, variables, self._images, self._view).features)
        }
        if config.by == "labels":
            rows = features(role, variables, self._images)
            found["labels"] = hits_of_labels(rows, config.k, config.temperature)
        if config.by == "pairs":
            found["pairs"] = hits_of_pairs(features(role, variables, self._images))
        return found


def hits_of_labels(
    rows: LabeledFeatures, k: int, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    """Whether the other images vote for the class of each, and its number; all [N]."""
    ranks = leave_one_out_ranks(rows.features, rows.labels, k=(k,), temperature=temperature)[k]
    return ranks == 0, np.arange(len(ranks))


def hits_of_pairs(rows: LabeledFeatures) -> tuple[np.ndarray, np.ndarray]:
    """Whether the nearest other image has the label of each, and that label.

    Images whose label no other one has, or that have none, are in the way, but not asked.
    """
    nearest = find_nearest_rows(rows.features, rows.features, itself=False)
    sizes = np.bincount(np.maximum(rows.labels, 0))[rows.labels]
    asked = (rows.labels >= 0) & (sizes > 1)
    return (rows.labels[nearest] == rows.labels)[asked], rows.labels[asked]


def hits_of_views(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each view's nearest one among the other views of all images is of its image.

    Args:
      features: [N, 2 * D], the two views of each image.

    Returns:
      [2 N] bool, and [2 N] the numbers of the images.
    """
    first, second = np.split(features, VIEWS, axis=1)
    own = np.arange(len(features))
    there = find_nearest_rows(first, second, itself=True) == own
    back = find_nearest_rows(second, first, itself=True) == own
    return np.concatenate([there, back]), np.concatenate([own, own])


def find_nearest_rows(queries: np.ndarray, rows: np.ndarray, itself: bool) -> np.ndarray:
    """[N] the row of the largest cosine with each query; ties by row.

    Args:
      queries: [N, D] of any scale.
      rows: [M, D] likewise.
      itself: whether row i may be the answer to query i.
    """
    asked, given, found = normalize_rows(queries), normalize_rows(rows), []
    for start in range(0, len(asked), ROWS_AT_ONCE):
        similar = asked[start : start + ROWS_AT_ONCE] @ given.T
        if not itself:
            places = np.arange(len(similar))
            similar[places, start + places] = -np.inf
        found.append(similar.argmax(axis=1))
    return np.concatenate(found)
