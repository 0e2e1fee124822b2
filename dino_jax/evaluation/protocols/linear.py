"""Linear classifiers on frozen features: trained together, or a released one.

Its options and its help are in `options.linear`.
"""

import argparse
import itertools
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dino_jax.data.labelled_stream import DRAWS, build_labelled_stream
from dino_jax.data.sources import ImageSource
from dino_jax.devices.sharding import make_mesh
from dino_jax.evaluation.accuracy import TopAccuracy
from dino_jax.evaluation.features import LabeledFeatures
from dino_jax.evaluation.frozen import extract_part
from dino_jax.evaluation.labelled import open_labelled, open_part, parts_of
from dino_jax.evaluation.linear_features import LINEAR_FEATURES, pool_outputs, unpool_outputs
from dino_jax.evaluation.linear_heads import Group, Head, Heads
from dino_jax.evaluation.linear_training import Score, TrainingLength, train_heads
from dino_jax.evaluation.options.linear import AVGPOOL, CONVENTIONS
from dino_jax.evaluation.reading import (
    Reading,
    name_unreadable,
    reading_of,
)
from dino_jax.evaluation.released_classifier import read_classifier
from dino_jax.evaluation.result import Result
from dino_jax.evaluation.sharing import open_same
from dino_jax.processes.agreement import Agreement
from dino_jax.weights.limits import check_batch
from dino_jax.weights.model import Model

REFERENCE_BATCH = 256  # for which learning rates are given
SEED = 0  # seed of the order and the crops of the training images


def evaluate(model: Model, arguments: argparse.Namespace, agreement: Agreement) -> Result:
    """Reports the best of the trained classifiers, or the given one.

    Raises:
      ValueError: if an option is out of range or does not fit the weights or the images, see
        `open_labelled`.
      OSError: if images are missing.
    """
    mesh = make_mesh(1)
    reading = reading_of(arguments, model, mesh)
    if arguments.classifier:
        return evaluate_released(model, arguments, agreement, reading, mesh)
    check_batch(arguments.train_batch_size, mesh.size, "--train-batch-size")
    images = open_same(agreement, partial(open_labelled, arguments, reading.decoding), parts_of)
    length = length_of(arguments, len(images.train))
    heads = heads_of(arguments, model, len(images.class_names))
    test = extract_test(model, images.test, heads, reading, mesh)
    stream = open_stream(images.train, arguments, reading)
    scores, unreadable = train_heads(model, heads, length, stream, test, mesh)
    settings = {
        "convention": arguments.convention,
        "image_size": reading.image_size,
        "classes": heads.classes,
        "train_images": len(images.train),
        "test_images": len(test.labels),
        "unreadable_train": name_unreadable(images.train, unreadable),
        "unreadable_test": name_unreadable(images.test, test.unreadable),
        "train_batch_size": arguments.train_batch_size,
        "steps": length.total_steps,
    }
    return describe_scores(scores, settings, heads.classes)


def evaluate_released(
    model: Model,
    arguments: argparse.Namespace,
    agreement: Agreement,
    reading: Reading,
    mesh: Mesh,
) -> Result:
    """The classifier of --classifier on the test images, whose sorted classes are its rows.

    Raises:
      ValueError, OSError: as in `evaluate`, and if the classifier does not fit.
    """
    source = open_same(
        agreement,
        partial(open_part, arguments, reading.decoding, "test"),
        lambda source: {"--test": source},
    )
    heads = heads_of(arguments, model, len(source.class_names))
    group, *others = heads.groups
    if others:
        raise ValueError(
            "--classifier is one: name one of --last-blocks and one of --avgpool, such as "
            "--last-blocks 1 --avgpool yes"
        )
    test = extract_test(model, source, heads, reading, mesh)
    (features,) = heads.inputs(unpool_outputs(jnp.asarray(test.features))).values()
    classifier = read_classifier(arguments.classifier, features.shape[1], heads.classes)
    accuracy = classifier.accuracy(np.asarray(features), test.labels)
    settings = {
        "convention": arguments.convention,
        "classifier": arguments.classifier,
        "features": str(group),
        "image_size": reading.image_size,
        "classes": heads.classes,
        "test_images": len(test.labels),
        "unreadable_test": name_unreadable(source, test.unreadable),
    }
    return Result(accuracy.metrics("", heads.classes), settings)


def extract_test(
    model: Model, source: ImageSource, heads: Heads, reading: Reading, mesh: Mesh
) -> LabeledFeatures:
    """[M, n + 1, D] pooled outputs of all test images."""

    def pool(network: Any, variables: Any, views: jax.Array) -> jax.Array:
        return pool_outputs(network, variables, views, heads.most_blocks)

    return extract_part(model, source, "test", reading, mesh, pool)


def length_of(arguments: argparse.Namespace, images: int) -> TrainingLength:
    """Length of the training.

    Raises:
      ValueError: if the length is given in the unit of another convention, or the warm-up is
        longer.
    """
    convention = CONVENTIONS[arguments.convention]
    (other,) = {"epochs", "iterations"} - {convention.unit}
    if getattr(arguments, other) is not None:
        raise ValueError(
            f"--{other} is not for --convention={arguments.convention}; use --{convention.unit} "
            "there"
        )
    count = getattr(arguments, convention.unit) or convention.length
    if convention.unit == "iterations":
        return TrainingLength(count, period=1, score_every=count)
    if count <= convention.warmup_epochs:
        raise ValueError(
            f"--epochs={count}: --convention={arguments.convention} has a warm-up of "
            f"{convention.warmup_epochs:g} epochs; use more"
        )
    steps = math.ceil(images / arguments.train_batch_size)
    warmup_steps = round(convention.warmup_epochs * steps)
    period = 1 if warmup_steps else steps
    return TrainingLength(count * steps, period, score_every=steps, warmup_steps=warmup_steps)


def heads_of(arguments: argparse.Namespace, model: Model, classes: int) -> Heads:
    """Classifiers to train.

    Raises:
      ValueError: if the backbone has fewer blocks.
    """
    convention = CONVENTIONS[arguments.convention]
    backbone = model.network.backbone
    depth = backbone.depth
    usual = sorted({min(blocks, depth) for blocks in convention.last_blocks})
    blocks = sorted(set(arguments.last_blocks or usual))
    rates = sorted(set(arguments.learning_rates or convention.learning_rates))
    if blocks[-1] > depth:
        raise ValueError(
            f"--last-blocks {blocks}: this {type(backbone).__name__} gives the features of 1 to "
            f"{depth} blocks"
        )
    avgpool = sorted({AVGPOOL[name] for name in arguments.avgpool or convention.avgpool})
    if arguments.convention == "dino" and avgpool[-1] and blocks[-1] > 1:
        raise ValueError(
            "--convention=dino has --avgpool yes only with --last-blocks 1; use "
            "--convention=dinov2 for both"
        )
    return Heads(
        groups=tuple(Group(*pair) for pair in itertools.product(blocks, avgpool)),
        learning_rates=tuple(rate * arguments.train_batch_size / REFERENCE_BATCH for rate in rates),
        features=LINEAR_FEATURES[arguments.convention],
        classes=classes,
        standardizes=convention.standardizes,
        rule=convention.rule,
    )


def open_stream(source: ImageSource, arguments: argparse.Namespace, reading: Reading) -> Any:
    """This process's rows of the training batches."""
    convention = CONVENTIONS[arguments.convention]
    return build_labelled_stream(
        source,
        seed=SEED,
        image_size=reading.image_size,
        resampling=convention.resampling,
        batch_size=arguments.train_batch_size,
        max_pixels=reading.max_pixels,
        host=jax.process_index(),
        hosts=jax.process_count(),
        threads=reading.threads,
        channels=reading.decoding.channels,
        draw=DRAWS[convention.crops],
    )


def describe_scores(scores: list[Score], settings: dict[str, Any], classes: int) -> Result:
    """The best classifier at its best time, and the best time of each other one."""
    best: dict[Head, TopAccuracy] = {}
    for score in scores:
        for head, accuracy in score.accuracies.items():
            best[head] = max(accuracy, best.get(head, accuracy))
    winner = max(best, key=lambda head: best[head])  # the first of equal ones
    last = scores[-1].accuracies
    metrics = best[winner].metrics("", classes) | {
        "top1_at_the_end": max(accuracy.top1 for accuracy in last.values())
    }
    return Result(
        metrics,
        settings
        | {
            "best_classifier": str(winner),
            "classifiers": {str(head): round(best[head].top1, 3) for head in best},
            "top1_by_step": {
                score.step: round(max(x.top1 for x in score.accuracies.values()), 3)
                for score in scores
            },
        },
    )
