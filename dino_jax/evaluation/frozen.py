"""Features of labelled images from a frozen backbone, for the classifiers on top of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from dino_jax.data.sources import ImageSource
from dino_jax.devices.sharding import replicated
from dino_jax.evaluation.features import (
    LabeledFeatures,
    cls_token,
    extract_features,
    make_extractor,
)
from dino_jax.evaluation.labelled import Labelled
from dino_jax.evaluation.reading import Reading, name_unreadable
from dino_jax.models.network import Network
from dino_jax.weights.model import Model

Take = Callable[[Network, Any, jax.Array], jax.Array]


class FrozenFeatures(NamedTuple):
    """Features of all training and test images that could be read, on every process."""

    train: LabeledFeatures
    test: LabeledFeatures


def extract_labelled(
    model: Model, images: Labelled, reading: Reading, mesh: Mesh, take: Take = cls_token
) -> FrozenFeatures:
    """Runs both parts through the backbone; see `extract_part`."""
    return FrozenFeatures(
        extract_part(model, images.train, "train", reading, mesh, take),
        extract_part(model, images.test, "test", reading, mesh, take),
    )


def extract_part(
    model: Model, source: ImageSource, part: str, reading: Reading, mesh: Mesh, take: Take
) -> LabeledFeatures:
    """Runs images through the backbone, on all devices of the mesh.

    Args:
      model: model whose backbone it is.
      source: source of the images.
      part: name of the part for messages, such as "train".
      reading: how the images are read.
      mesh: mesh of the devices.
      take: (network, variables, images) -> [B, …], the features to keep.

    Raises:
      ValueError: if an image has no label, none can be read, or a feature is not finite.
    """
    variables = jax.device_put(model.variables, replicated(mesh))
    extract = make_extractor(model.network, mesh, take)
    stream = reading.stream(source, f"{part} images")
    found = extract_features(extract, variables, stream, mesh)
    _check(found, part, len(source))
    _check_finite(found, part, model)
    return found


def _check(found: LabeledFeatures, part: str, total: int) -> None:
    if not len(found.labels):
        raise ValueError(f"none of the {total} {part} images can be read; are these images?")
    without = int(np.sum(found.labels < 0))
    if without:
        raise ValueError(
            f"{without} of the {total} {part} images have no label; every one needs a class"
        )


def _check_finite(found: LabeledFeatures, part: str, model: Model) -> None:
    broken = int(np.sum(~np.isfinite(found.features.reshape(len(found.labels), -1)).all(axis=1)))
    if broken:
        raise ValueError(
            f"the features of {broken} of {len(found.labels)} {part} images are not finite: the "
            f"{model.title} is damaged or has diverged; try an earlier --step"
        )


def describe_images(images: Labelled, reading: Reading, features: FrozenFeatures) -> dict[str, Any]:
    """The evaluated model and images, for a result."""
    return {
        "image_size": reading.image_size,
        "classes": len(images.class_names),
        "train_images": len(features.train.labels),
        "test_images": len(features.test.labels),
        "unreadable_train": name_unreadable(images.train, features.train.unreadable),
        "unreadable_test": name_unreadable(images.test, features.test.unreadable),
    }
