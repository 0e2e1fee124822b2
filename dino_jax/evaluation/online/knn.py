"""Accuracy of k-NN on held-out images: the only use of labels.

Test images are classified by their nearest training images (arXiv:1805.01978, Section 3.4).
Metrics are "knnK/ROLE" in percent, one for every k and role. A frozen role, which never changes, is
measured before training only, and so are the pixels themselves, "knnK/raw_pixels".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dino_jax.config.section import option
from dino_jax.data.sources import ImagesConfig
from dino_jax.evaluation.features import LabeledFeatures
from dino_jax.evaluation.knn import knn_accuracy
from dino_jax.evaluation.online.base import (
    HELD_OUT,
    Context,
    EvaluationConfig,
    Images,
    Metrics,
    Reference,
    Variables,
    check_common,
)

IMAGES = {"train": "labelled training images", "test": "labelled test images"}
GUARDS = True  # by the accuracy with the first k


@dataclass(frozen=True)
class Config(EvaluationConfig):
    kind: str = option("knn", "k-NN accuracy; needs labels")
    train: ImagesConfig = option(ImagesConfig(), "images with labels, in which neighbors are")
    test: ImagesConfig = option(HELD_OUT, "images with labels to classify")
    max_train_images: int = option(50_000, "more are left out, evenly", at_least=1)
    max_test_images: int = option(10_000, "more are left out, evenly", at_least=1)
    k: tuple[int, ...] = option((10, 20), "numbers of neighbors", at_least=1, at_most=10_000)
    temperature: float = option(
        0.07, "temperature of the neighbors' votes", at_least=1e-3, at_most=1000
    )
    raw_pixels: bool = option(False, "also measure the accuracy of the pixels themselves")


def check(where: str, config: Any, context: Context) -> None:
    """Runs the checks that need no images; raises ValueErrors as `check_common`, or without a k."""
    check_common(where, config, context)
    if not config.k:
        raise ValueError(f"{where}.k () must name numbers of neighbors; try --{where}.k='(10,)'")


def build(where: str, config: Any, context: Context) -> "Knn":
    """Opens the images.

    Args:
      where: name of the section, for messages.
      config: config of the evaluation.
      context: context of the run.

    Raises:
      ValueError: if the images have no labels, other classes or are too few.
      OSError: if they are missing.
    """
    train = context.open_images(f"{where}.train", config.train, config, config.max_train_images)
    test = context.open_images(f"{where}.test", config.test, config, config.max_test_images)
    _check_labels(where, train, test)
    if max(config.k) > train.count:
        raise ValueError(
            f"{where}.k {tuple(config.k)} needs more neighbors than there are training images "
            f"({train.count}); try --{where}.k='({train.count},)'"
        )
    return Knn(config, context, train, test)


class Knn:
    """See the top of this file."""

    def __init__(self, config: Any, context: Context, train: Images, test: Images):
        """Measures nothing yet."""
        self._config, self._context = config, context
        self._train, self._test = train, test
        self.guarded = f"knn{config.k[0]}/{context.evaluated}"

    def __call__(self, step: int, networks: Mapping[str, Variables]) -> Metrics:
        results = {}
        if step == 0 and self._config.raw_pixels:
            results |= self._accuracy("raw_pixels", _pixels(self._train), _pixels(self._test))
        for role in self._context.roles(self._config):
            if step == 0 or role not in self._context.frozen:
                results |= self._of_role(role, networks[role])
        return results

    def reference(self, variables: Variables, known: Metrics) -> Reference:
        return {"value": self.value(variables, {}, known)}

    def value(self, variables: Variables, reference: Reference, known: Metrics) -> float:
        del reference
        if self.guarded not in known:
            known = self._of_role(self._context.evaluated, variables)
        return known[self.guarded] / 100.0

    def _of_role(self, role: str, variables: Variables) -> Metrics:
        train, test = (
            self._context.features(role, variables, part) for part in (self._train, self._test)
        )
        return self._accuracy(role, train, test)

    def _accuracy(self, name: str, train: LabeledFeatures, test: LabeledFeatures) -> Metrics:
        accuracy = knn_accuracy(
            train.features,
            train.labels,
            test.features,
            test.labels,
            k=self._config.k,
            temperature=self._config.temperature,
            mesh=self._context.mesh,
        )
        return {f"knn{k}/{name}": value.top1 for k, value in accuracy.items()}


def _pixels(images: Images) -> LabeledFeatures:
    pixels, labels = [], []
    for batch in images.stream(host=0, hosts=1):
        pixels.append(batch["image"][batch["valid"]])
        labels.append(batch["label"][batch["valid"]])
    stacked = np.concatenate(pixels)
    return LabeledFeatures(stacked.reshape(len(stacked), -1), np.concatenate(labels))


def _check_labels(where: str, train: Images, test: Images) -> None:
    for part, images in (("train", train), ("test", test)):
        if not images.source.class_names:
            raise ValueError(
                f"{where}.{part} has no labels: put its images into one folder per class, or "
                f"measure without labels: --config.evaluations.proxies.images.path=FOLDER "
                f"--{where}.every_epochs=0.0"
            )
    if train.source.class_names != test.source.class_names:
        only = sorted(set(train.source.class_names) ^ set(test.source.class_names))
        raise ValueError(
            f"{where}.train and {where}.test have different classes; in one only: {only[:10]}"
        )
