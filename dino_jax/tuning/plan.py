"""A tuning before its first step: who is held out, which batches, which loss."""

import argparse
import ast
from typing import Any, NamedTuple

import jax
import numpy as np

from dino_jax.objectives.arcface import Arcface
from dino_jax.objectives.base import Objective
from dino_jax.objectives.labelled import build_loss
from dino_jax.tuning.catalogue import Catalogue
from dino_jax.tuning.guard import Queries, make_queries
from dino_jax.tuning.sampler import Sampler, make_sampler
from dino_jax.tuning.skus import shuffle_skus
from dino_jax.tuning.split import split_skus
from dino_jax.weights.limits import check_batch

MANY_SKUS, MANY_PHOTOS = 1000, 4  # from which on the default loss has class vectors


class Plan(NamedTuple):
    """A tuning before its first step.

    Attributes:
      catalogue: the photographs.
      sampler: batches of the SKUs to learn from.
      queries: what is measured.
      loss: kind of the loss.
      objective: the loss.
      vectors: class vectors that the loss has, 0 for none.
      steps: updates.
    """

    catalogue: Catalogue
    sampler: Sampler
    queries: Queries
    loss: str
    objective: Objective
    vectors: int
    steps: int


def prepare(arguments: argparse.Namespace, catalogue: Catalogue) -> Plan:
    """Divides the SKUs and chooses batches and loss.

    Raises:
      ValueError: if there are too few SKUs, or an option does not fit.
    """
    skus = catalogue.skus
    if arguments.shuffle:
        skus = shuffle_skus(skus, arguments.seed)
    # Two crops of one photograph are a pair; vectors have no crops.
    crops = arguments.loss == "symmetric" and arguments.what != "adapter"
    split = split_skus(skus, arguments.held_out, arguments.seed, least_photos=1 if crops else 2)
    photos = skus.photos()
    learned = [photos[sku] for sku in split.trained]
    loss = arguments.loss or choose_loss(learned, bool(arguments.pairs))
    each = arguments.photos or (2 if loss == "symmetric" or arguments.pairs else 4)
    categories = categories_of(catalogue.categories, learned)
    sampler = make_sampler(
        learned, arguments.skus, each, arguments.seed, categories, arguments.categories
    )
    check_batch(sampler.skus * each, jax.device_count(), "--skus times --photos")
    objective = build_loss(loss, parse_options(arguments.loss_option))
    vectors = len(learned) * objective.centers if isinstance(objective, Arcface) else 0
    queries = make_queries(skus, split.held_out, arguments.gallery == "all")
    steps = max(1, round(arguments.epochs * sampler.steps_per_epoch))
    single, without = sum(len(x) == 1 for x in photos), int((skus.of < 0).sum())
    say(
        f"SKUs        {len(learned):,} to learn from ({sum(map(len, learned)):,} photos), "
        f"{len(split.held_out):,} held out ({int(queries.asked.sum()):,} photos); "
        + (
            f"of {single:,} with one photo two crops are a pair; {without:,} photos without a SKU "
            "are left out"
            if crops
            else f"{single:,} with one photo, and {without:,} photos without a SKU, are left out"
        )
    )
    if categories is not None:
        count = len(np.unique(categories))
        say(f"categories  {count:,} of --category={arguments.category}, {sampler.most} in a batch")
    say(f"loss        {loss}, {sampler.skus} SKUs x {each} photos, {steps:,} steps")
    return Plan(catalogue, sampler, queries, loss, objective, vectors, steps)


def categories_of(categories: np.ndarray | None, skus: list[np.ndarray]) -> np.ndarray | None:
    """The category of every SKU, that of its first photograph; None without categories.

    Args:
      categories: [N] of all photographs.
      skus: photographs of every SKU.
    """
    if categories is None:
        return None
    return np.array([categories[photos[0]] for photos in skus])


def choose_loss(photos: list[np.ndarray], are_pairs: bool) -> str:
    """The loss that suits the sizes of SKUs to learn from."""
    if are_pairs:
        return "symmetric"
    large = sum(len(one) >= MANY_PHOTOS for one in photos)
    return "arcface" if large > MANY_SKUS else "supcon"


def parse_options(texts: list[str]) -> dict[str, Any]:
    """["margin=0.2", "mined=False"] -> {"margin": 0.2, "mined": False}.

    Raises:
      ValueError: if a text is anything else.
    """
    found = {}
    for text in texts:
        name, sign, value = text.partition("=")
        try:
            found[name.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError) as error:
            raise ValueError(f"--loss-option {text!r}: expected NAME=NUMBER") from error
        if not sign or not name.strip() or not isinstance(found[name.strip()], int | float):
            raise ValueError(f"--loss-option {text!r}: expected NAME=NUMBER")
    return found


def say(line: str) -> None:
    """Prints a line of process 0."""
    if jax.process_index() == 0:
        print(line, flush=True)
