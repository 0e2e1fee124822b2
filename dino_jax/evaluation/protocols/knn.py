"""Weighted k-NN of frozen cls tokens, with all training images or a few per class.

Its options and its help are in `options.knn`.
"""

import argparse
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from dino_jax.devices.sharding import make_mesh
from dino_jax.evaluation.accuracy import TopAccuracy
from dino_jax.evaluation.features import cls_token
from dino_jax.evaluation.frozen import (
    FrozenFeatures,
    describe_images,
    extract_labelled,
    extract_part,
)
from dino_jax.evaluation.knn import knn_accuracy, leave_one_out_accuracy
from dino_jax.evaluation.labelled import (
    has_parts,
    open_classes,
    open_labelled,
    parts_of,
)
from dino_jax.evaluation.reading import (
    Reading,
    name_unreadable,
    reading_of,
)
from dino_jax.evaluation.result import Result
from dino_jax.evaluation.sharing import open_same
from dino_jax.processes.agreement import Agreement
from dino_jax.weights.model import Model

SMALLEST_DINO_TEMPERATURE = 0.0115  # exp(1 / temperature) is a float32


def evaluate(model: Model, arguments: argparse.Namespace, agreement: Agreement) -> Result:
    """Top-1 and top-5 accuracy for every k, with all training images and with a few per class.

    Raises:
      ValueError: if an option is out of range or does not fit the images, see `open_labelled`.
      OSError: if images are missing.
    """
    _check_options(arguments)
    mesh = make_mesh(1)
    own_photos = not has_parts(arguments)
    reading = reading_of(arguments, model, mesh, own_photos)
    if own_photos:
        return _leave_one_out(model, arguments, agreement, reading, mesh)
    images = open_same(agreement, partial(open_labelled, arguments, reading.decoding), parts_of)
    _check_neighbours(arguments.k, len(images.train), "training images")
    features = extract_labelled(model, images, reading, mesh)
    _check_neighbours(arguments.k, len(features.train.labels), "readable training images")
    accuracies = {"": _classify(features, None, arguments.k, arguments, mesh)}
    for count in arguments.per_class:
        accuracies[f"{count}_per_class_"] = _few_shot(features, count, arguments, mesh)
    settings = describe_images(images, reading, features) | _describe_options(arguments)
    return Result(_metrics(accuracies, len(images.class_names)), settings)


def _leave_one_out(
    model: Model,
    arguments: argparse.Namespace,
    agreement: Agreement,
    reading: Reading,
    mesh: Mesh,
) -> Result:
    """Accuracy when every image of a folder of classes is classified by all others."""
    if arguments.per_class:
        raise ValueError(
            "--per-class needs test images of their own: pass --data=FOLDER with the folders train "
            "and val in it, or --train=PATH and --test=PATH"
        )
    source = open_same(
        agreement,
        partial(open_classes, arguments.data, reading.decoding),
        lambda source: {"--data": source},
    )
    if not jax.process_index():
        print(
            f"{arguments.data} has no train/ and val/: leave-one-out, each of its {len(source):,} "
            "images is classified by all others",
            flush=True,
        )
    _check_neighbours(arguments.k, len(source) - 1, "other images")
    found = extract_part(model, source, "", reading, mesh, cls_token)
    _check_neighbours(arguments.k, len(found.labels) - 1, "other readable images")
    accuracy = leave_one_out_accuracy(
        found.features,
        found.labels,
        k=arguments.k,
        temperature=arguments.temperature,
        convention=arguments.convention,
        mesh=mesh,
    )
    settings = {
        "image_size": reading.image_size,
        "classes": len(source.class_names),
        "images": len(found.labels),
        "split": "leave-one-out",
        "unreadable": name_unreadable(source, found.unreadable),
        **_describe_options(arguments),
    }
    return Result(_metrics({"": accuracy}, len(source.class_names)), settings)


def _metrics(accuracies: dict[str, dict[int, TopAccuracy]], classes: int) -> dict[str, float]:
    """Accuracies for every k, under the prefix of its training images."""
    return {
        name: value
        for prefix, by_k in accuracies.items()
        for k, accuracy in by_k.items()
        for name, value in accuracy.metrics(f"{prefix}knn{k}_", classes).items()
    }


def _describe_options(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("convention", "temperature", "k", "per_class", "tries")
    return {name: getattr(arguments, name) for name in names}


def draw_few(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draws images of each class.

    Args:
      labels: [N] of the training images.
      count: images per class; all images of a class that has fewer.
      seed: seed of the draw.

    Returns:
      Indices, sorted.
    """
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(np.flatnonzero(labels == name))[:count] for name in np.unique(labels)]
    return np.sort(np.concatenate(drawn))


def _few_shot(
    features: FrozenFeatures, count: int, arguments: argparse.Namespace, mesh: Mesh
) -> dict[int, TopAccuracy]:
    """Means over the draws, for every k up to the number of images per class, as in DINOv2."""
    sizes = sorted({k for k in (*arguments.k, count) if k <= count})
    tries = [
        _classify(features, draw_few(features.train.labels, count, seed), sizes, arguments, mesh)
        for seed in range(arguments.tries)
    ]
    return {k: TopAccuracy(*np.mean([found[k] for found in tries], axis=0)) for k in sizes}


def _classify(
    features: FrozenFeatures,
    chosen: np.ndarray | None,
    sizes: list[int],
    arguments: argparse.Namespace,
    mesh: Mesh,
) -> dict[int, TopAccuracy]:
    """Accuracies with the training images at `chosen`, or all."""
    train, test = features
    rows = slice(None) if chosen is None else chosen
    return knn_accuracy(
        train.features[rows],
        train.labels[rows],
        test.features,
        test.labels,
        k=sizes,
        temperature=arguments.temperature,
        convention=arguments.convention,
        mesh=mesh,
    )


def _check_options(arguments: argparse.Namespace) -> None:
    smallest = SMALLEST_DINO_TEMPERATURE if arguments.convention == "dino" else 0.0
    if not arguments.temperature > smallest:
        raise ValueError(
            f"--temperature ({arguments.temperature}) must be above {smallest} with "
            f"--convention={arguments.convention}; dinov2 takes any above 0 and ranks alike"
        )


def _check_neighbours(sizes: list[int], count: int, what: str) -> None:
    if max(sizes) > count:
        fitting = [k for k in sizes if k <= count] or [count]
        raise ValueError(
            f"--k {sizes}: {max(sizes)} neighbors are more than the {count} {what}; try --k "
            + " ".join(str(k) for k in fitting)
        )
