"""Fine-tuning of a whole backbone with a classifier.

Its options and its help are in `options.finetune`.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dino_jax.data.labelled_stream import PLAIN_CROP, build_labelled_stream, keep
from dino_jax.data.rand_augment import RandAugment
from dino_jax.devices.sharding import make_mesh
from dino_jax.evaluation.accuracy import TopAccuracy, rank_of, top_accuracy
from dino_jax.evaluation.features import extract_features, make_extractor
from dino_jax.evaluation.finetuning import Classifier, Length, Variables, build_optimizer, tune
from dino_jax.evaluation.labelled import Labelled, open_labelled, parts_of
from dino_jax.evaluation.mixing import Mixing
from dino_jax.evaluation.reading import Reading, name_unreadable, reading_of
from dino_jax.evaluation.result import Result
from dino_jax.evaluation.sharing import open_same
from dino_jax.models.network import Network
from dino_jax.processes.agreement import Agreement
from dino_jax.weights.limits import check_batch
from dino_jax.weights.model import Model

REFERENCE_BATCH = 256  # for which --lr is given


def evaluate(model: Model, arguments: argparse.Namespace, agreement: Agreement) -> Result:
    """Reports the accuracy of the best epoch and of the last one.

    Raises:
      ValueError: if an option is out of range or does not fit the weights or the images, see
        `open_labelled`, or the loss is not finite.
      OSError: if images are missing.
    """
    mesh = make_mesh(1)
    reading = reading_of(arguments, model, mesh)
    check_batch(arguments.train_batch_size, mesh.size, "--train-batch-size")
    check_colors(arguments, reading)
    images = open_same(agreement, partial(open_labelled, arguments, reading.decoding), parts_of)
    classifier = classifier_of(arguments, model.network, len(images.class_names))
    length = length_of(arguments, len(images.train))
    score, unreadable_test = make_score(classifier, images, reading, mesh)
    tuned = tune(
        classifier,
        model.variables,
        build_optimizer(length, arguments.weight_decay, arguments.layer_decay),
        Mixing(arguments.mixup, arguments.cutmix, arguments.label_smoothing, arguments.erase),
        length,
        open_stream(images, arguments, reading),
        score,
        arguments.seed,
        mesh,
    )
    best = max(tuned.accuracies)
    settings = {
        "pool": "mean" if classifier.pools_mean else "cls",
        "image_size": reading.image_size,
        "classes": classifier.classes,
        "train_images": len(images.train),
        "test_images": len(images.test),
        "unreadable_train": name_unreadable(images.train, tuned.unreadable),
        "unreadable_test": name_unreadable(images.test, unreadable_test()),
        "epochs": length.epochs,
        "steps": length.steps,
        "train_batch_size": arguments.train_batch_size,
        "lr": length.peak,
        "best_epoch": tuned.accuracies.index(best) + 1,
        "top1_by_epoch": [round(accuracy.top1, 3) for accuracy in tuned.accuracies],
    }
    metrics = best.metrics("", classifier.classes)
    return Result(metrics | {"top1_at_the_end": tuned.accuracies[-1].top1}, settings)


def check_colors(arguments: argparse.Namespace, reading: Reading) -> None:
    """Raises a ValueError if RandAugment is asked for images of other than three channels."""
    channels = reading.decoding.channels
    if arguments.rand_augment and channels != 3:
        raise ValueError(
            f"--rand-augment={arguments.rand_augment:g} changes colors, this model has {channels} "
            "channels; use --rand-augment=0"
        )


def classifier_of(arguments: argparse.Namespace, network: Network, classes: int) -> Classifier:
    """The network with stochastic depth and a classifier.

    Raises:
      ValueError: if it has no blocks that could be dropped or have rates of their own.
    """
    backbone, rate = network.backbone, arguments.drop_path
    if not hasattr(backbone, "drop_path_rate") and (rate or arguments.layer_decay != 1):
        raise ValueError(
            f"a {type(backbone).__name__} has no stochastic depth and no blocks with rates of "
            "their own; use --drop-path=0 --layer-decay=1"
        )
    if rate:
        depth = {
            "drop_path_rate": rate,
            "drop_path_schedule": "linear",
            "drop_path_kind": "per_sample",
        }
        network = network.clone(backbone=backbone.clone(**depth))
    by_mean = {"auto": backbone.has_attention, "mean": True, "cls": False}[arguments.pool]
    return Classifier(network, by_mean, classes)


def length_of(arguments: argparse.Namespace, images: int) -> Length:
    """Length of the training; the rest of an epoch that fills no batch is left to the next one.

    Raises:
      ValueError: if the warm-up is longer.
    """
    if arguments.warmup_epochs > arguments.epochs:
        raise ValueError(
            f"--warmup-epochs={arguments.warmup_epochs:g} is longer than --epochs="
            f"{arguments.epochs}; use fewer"
        )
    return Length(
        arguments.epochs,
        max(images // arguments.train_batch_size, 1),
        arguments.lr * arguments.train_batch_size / REFERENCE_BATCH,
        arguments.min_lr,
        arguments.warmup_epochs,
    )


def make_score(
    classifier: Classifier, images: Labelled, reading: Reading, mesh: Mesh
) -> tuple[Callable[[Variables], TopAccuracy], Callable[[], Any]]:
    """The accuracy of variables on the test images, and which of these could not be read."""

    def take(network: Network, variables: Variables, views: jax.Array) -> jax.Array:
        return classifier.logits(variables, views)

    extract = make_extractor(classifier.network, mesh, take)
    unreadable: list[Any] = []

    def score(variables: Variables) -> TopAccuracy:
        found = extract_features(extract, variables, reading.stream(images.test, "test"), mesh)
        if not len(found.labels):
            raise ValueError(f"none of the {len(images.test)} test images can be read")
        unreadable[:] = [found.unreadable]
        return top_accuracy(np.asarray(rank_of(*map(jnp.asarray, (found.features, found.labels)))))

    return score, lambda: unreadable[0]


def open_stream(images: Labelled, arguments: argparse.Namespace, reading: Reading) -> Any:
    """This process's rows of the training batches."""
    magnitude = arguments.rand_augment
    return build_labelled_stream(
        images.train,
        seed=arguments.seed,
        image_size=reading.image_size,
        resampling="bicubic",
        batch_size=arguments.train_batch_size,
        max_pixels=reading.max_pixels,
        host=jax.process_index(),
        hosts=jax.process_count(),
        threads=reading.threads,
        channels=reading.decoding.channels,
        crop=replace(PLAIN_CROP, scale=(arguments.least_area, 1.0), flip=arguments.flip),
        distort=RandAugment(magnitude) if magnitude else keep,
    )
