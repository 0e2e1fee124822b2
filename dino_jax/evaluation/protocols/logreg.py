"""Logistic regression on frozen cls tokens, with the strength of its penalty chosen.

Its options and its help are in `options.logreg`.
"""

import argparse
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from dino_jax.commands.progress import Progress
from dino_jax.devices.sharding import make_mesh
from dino_jax.evaluation.features import LabeledFeatures
from dino_jax.evaluation.frozen import describe_images, extract_labelled
from dino_jax.evaluation.labelled import open_labelled, parts_of
from dino_jax.evaluation.logistic import LogisticRegression
from dino_jax.evaluation.reading import reading_of
from dino_jax.evaluation.result import Result
from dino_jax.evaluation.sharing import open_same
from dino_jax.processes.agreement import Agreement
from dino_jax.weights.model import Model

HELD_OUT = 10  # one in this many training images chooses C
SEED = 0  # seed of their choice


def evaluate(model: Model, arguments: argparse.Namespace, agreement: Agreement) -> Result:
    """Chooses C on a tenth of the training images, then trains on all and tests.

    Raises:
      ValueError: if an option is out of range or does not fit the images, see `open_labelled`.
      OSError: if images are missing.
    """
    mesh = make_mesh(1)
    # DINOv2 resizes to the size of the view itself here, and crops less than for k-NN.
    reading = reading_of(arguments, model, mesh)
    reading = reading._replace(view=replace(reading.view, short_side=1.0))
    images = open_same(agreement, partial(open_labelled, arguments, reading.decoding), parts_of)
    features = extract_labelled(model, images, reading, mesh)
    train, test = features
    classes = len(images.class_names)
    held_out = choose_strength(train, sorted(arguments.C), classes, arguments.max_iterations, mesh)
    best = max(held_out, key=lambda strength: held_out[strength])  # the first of equal ones
    whole = LogisticRegression(train.features, train.labels, classes, mesh)
    accuracy = whole.fit(best, arguments.max_iterations).accuracy(test.features, test.labels)
    settings = describe_images(images, reading, features) | {
        "short_side": reading.view.short_side,
        "max_iterations": arguments.max_iterations,
        "held_out_images": len(train.labels) // HELD_OUT,
        "held_out_top1": {f"{strength:.6g}": round(top1, 3) for strength, top1 in held_out.items()},
    }
    return Result(accuracy.metrics("", classes) | {"best_C": best}, settings)


class Split(NamedTuple):
    """Indices of training images."""

    kept: np.ndarray
    held_out: np.ndarray


def hold_out(images: int) -> Split:
    """Draws a tenth of the images.

    Raises:
      ValueError: if there are fewer than ten.
    """
    if images < HELD_OUT:
        raise ValueError(
            f"a tenth of the training images chooses C: {images} are too few, expected at least "
            f"{HELD_OUT}"
        )
    order = np.random.default_rng(SEED).permutation(images)
    return Split(order[images // HELD_OUT :], order[: images // HELD_OUT])


def choose_strength(
    train: LabeledFeatures, strengths: list[float], classes: int, max_iterations: int, mesh: Mesh
) -> dict[float, float]:
    """Top-1 accuracy on a tenth of the training images after training on the others, for every C.

    Args:
      train: features of all training images.
      strengths: values of C, ascending; each starts from the previous solution.
      classes: number of classes.
      max_iterations: iterations of L-BFGS for each.
      mesh: mesh of the devices.

    Raises:
      ValueError: if there are fewer than ten images.
    """
    kept, held_out = hold_out(len(train.labels))
    problem = LogisticRegression(train.features[kept], train.labels[kept], classes, mesh)
    progress = Progress("regression", len(strengths), "values of C")
    found = {}
    for done, strength in enumerate(strengths):
        classifier = problem.fit(strength, max_iterations)
        accuracy = classifier.accuracy(train.features[held_out], train.labels[held_out])
        found[strength] = accuracy.top1
        if not jax.process_index():
            progress.show(done + 1)
    progress.close()
    return found
