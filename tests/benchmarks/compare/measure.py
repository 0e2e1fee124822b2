"""Accuracies of frozen features: k-NN, and logistic regression after a BatchNorm without affine."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import dino_jax
from dino_jax.data.pipeline import build_eval_stream
from dino_jax.data.sources import build_source
from dino_jax.devices.sharding import make_mesh
from dino_jax.evaluation.features import LabeledFeatures, extract_features, make_extractor
from dino_jax.evaluation.knn import knn_accuracy
from dino_jax.evaluation.logistic import LogisticRegression
from dino_jax.models.network import Network
from dino_jax.run.whole_config import Config
from dino_jax.step.recipe import build_recipe
from dino_jax.weights.source import take_part
from dino_jax.weights.weights_file import BACKBONE

K, TEMPERATURE = 10, 0.07
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # of the regression, chosen on a tenth of the training images
HELD_OUT, MOST_ITERATIONS = 10, 200
BATCH = 256


class Accuracy(NamedTuple):
    """Top-1 accuracies in percent."""

    knn: float
    linear: float


class Judge:
    """Measures networks on the images of a config's k-NN."""

    def __init__(self, config: Config):
        self._mesh = make_mesh(1, jax.devices()[:1])
        knn = config.evaluations["knn"]
        self._parts = [
            self._read(part, config, most)
            for part, most in (
                (knn.train, knn.max_train_images),
                (knn.test, knn.max_test_images),
            )
        ]

    def pixels(self) -> Accuracy:
        """Accuracies of the pixels themselves."""
        train, test = (
            LabeledFeatures(
                *(np.concatenate([batch[name][batch["valid"]] for batch in part]) for name in names)
            )
            for part in self._parts
            for names in [("image", "label")]
        )
        return self._accuracy(*(_flat(part) for part in (train, test)))

    def of(self, network: Network) -> Callable[[Any], Accuracy]:
        """(variables) -> accuracies of the features of a network without heads."""
        extract = self.features_of(network)
        return lambda variables: self._accuracy(*extract(variables))

    def features_of(
        self, network: Network
    ) -> Callable[[Any], tuple[LabeledFeatures, LabeledFeatures]]:
        """(variables) -> features of the training and of the test images."""
        extract = make_extractor(network, self._mesh)

        def features(variables: Any) -> tuple[LabeledFeatures, LabeledFeatures]:
            train, test = (
                extract_features(extract, variables, iter(part), self._mesh) for part in self._parts
            )
            return train, test

        return features

    def _read(self, images: Any, config: Config, most: int) -> list[dict[str, np.ndarray]]:
        source = build_source(images, "images")
        return list(
            build_eval_stream(
                source,
                image_size=config.image_size,
                batch_size=BATCH,
                max_pixels=config.max_pixels,
                max_images=most,
                threads=1,
            )
        )

    def _accuracy(self, train: LabeledFeatures, test: LabeledFeatures) -> Accuracy:
        return Accuracy(self.nearest(train, test), self.linear(train, test))

    def nearest(self, train: LabeledFeatures, test: LabeledFeatures) -> float:
        """k-NN accuracy in percent."""
        found = knn_accuracy(
            train.features,
            train.labels,
            test.features,
            test.labels,
            k=(K,),
            temperature=TEMPERATURE,
            mesh=self._mesh,
        )
        return found[K].top1

    def linear(self, train: LabeledFeatures, test: LabeledFeatures) -> float:
        """Accuracy in percent of a logistic regression on standardized features."""
        mean, deviation = train.features.mean(axis=0), train.features.std(axis=0)
        x, y = ((part.features - mean) / (deviation + 1e-6) for part in (train, test))
        labels, classes = train.labels, int(train.labels.max()) + 1
        order = np.random.default_rng(0).permutation(len(labels))
        kept, held_out = np.split(order, [len(order) - len(order) // HELD_OUT])
        problem = LogisticRegression(x[kept], labels[kept], classes, self._mesh)
        found = {
            strength: problem.fit(strength, MOST_ITERATIONS)
            .accuracy(x[held_out], labels[held_out])
            .top1
            for strength in STRENGTHS
        }
        best = max(found, key=lambda strength: found[strength])
        whole = LogisticRegression(x, labels, classes, self._mesh)
        return whole.fit(best, MOST_ITERATIONS).accuracy(y, test.labels).top1


def _flat(part: LabeledFeatures) -> LabeledFeatures:
    features = part.features.reshape(len(part.features), -1).astype(np.float32)
    return part._replace(features=features)


def open_networks(
    config: Config, folder: Path, steps: range, images: int
) -> tuple[Network, Iterator[Any]]:
    """The evaluated backbone of a run, and its variables before the first step and after others.

    Args:
      config: config of the run.
      folder: its workdir.
      steps: the steps after 0.
      images: number of its training images.
    """
    recipe = build_recipe(config, images)
    state: Any = jax.jit(recipe.init)(jax.random.key(config.seed))
    network = recipe.network.clone(heads={})
    first = take_part(state.networks[recipe.evaluated], BACKBONE)
    later = (dino_jax.load(folder, step).variables for step in steps)
    return network, itertools.chain([first], later)
