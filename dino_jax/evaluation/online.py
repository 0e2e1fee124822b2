"""Quality of the features while they are trained: k-NN with labels, proxies without."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from dino_jax.data.pipeline import build_eval_stream
from dino_jax.data.sources import ImageSource, build_source
from dino_jax.evaluation.features import LabeledFeatures, extract_features, make_extractor
from dino_jax.evaluation.knn import knn_accuracy
from dino_jax.evaluation.proxies import Proxies, check_proxies
from dino_jax.models.network import Network

NETWORKS = ("student", "teacher")
MEASURES = ("knn", "proxies", "both")


class OnlineEvaluation:
    """Judges the features of held-out images by what `config.knn.measure` names.

    "knn" classifies test images by their nearest training images, the only use of labels;
    "proxies" looks at the test images alone and needs no labels.
    """

    def __init__(self, whole_config: Any, network: Network, mesh: Mesh):
        """Opens the sources that it needs.

        Args:
          whole_config: with the sections `knn` and `max_pixels`.
          network: of student and teacher.
          mesh: of the devices.

        Raises:
          ValueError: if k-NN is asked for and a source has no labels or the sources have other
            classes, or if a number of `knn` does not fit the sources, the mesh or the network.
        """
        config = whole_config.knn
        check_knn(config, network.backbone.patch_size, mesh)
        self._config, self._mesh, self._max_pixels = config, mesh, whole_config.max_pixels
        self._extract = make_extractor(network, mesh)
        self._sources = {"test": build_source(config.test)}
        self._proxies = None
        if config.measure in ("knn", "both"):
            self._sources["train"] = build_source(config.train)
            check_labels(config, self._sources)
        if config.measure in ("proxies", "both"):
            check_proxies(config, len(self._sources["test"]))
            self._proxies = Proxies(config.k[0])

    def __call__(self, networks: dict[str, Any]) -> dict[str, float]:
        """Accuracies in percent and proxies: {"knn10/teacher": 80.5, "proxy/rankme": 31.2, …}.

        Args:
          networks: variables by name; k-NN evaluates those named in `config.knn.networks`.
        """
        results = {}
        labeled = self._config.networks if "train" in self._sources else ()
        compared = NETWORKS if self._proxies else ()
        # Not a set: all processes must go through the networks in the same order.
        names = dict.fromkeys((*labeled, *compared))
        tests = {name: self._features(networks[name], "test") for name in names}
        for name in labeled:
            results |= self._accuracy(name, self._features(networks[name], "train"), tests[name])
        if self._proxies:
            results |= self._proxies(tests["teacher"].features, tests["student"].features)
        return results

    def raw_pixels(self) -> dict[str, float]:
        """The same for the pixels themselves, if `config.knn.raw_pixels` asks for it."""
        if not self._config.raw_pixels or "train" not in self._sources:
            return {}
        return self._accuracy("raw_pixels", *(self._pixels(part) for part in ("train", "test")))

    def _accuracy(
        self, name: str, train: LabeledFeatures, test: LabeledFeatures
    ) -> dict[str, float]:
        config = self._config
        accuracy = knn_accuracy(
            train.features,
            train.labels,
            test.features,
            test.labels,
            k=config.k,
            temperature=config.temperature,
            mesh=self._mesh,
        )
        return {f"knn{k}/{name}": value.top1 for k, value in accuracy.items()}

    def _features(self, variables: Any, part: str) -> LabeledFeatures:
        return extract_features(self._extract, variables, self._stream(part), self._mesh)

    def _pixels(self, part: str) -> LabeledFeatures:
        images, labels = [], []
        for batch in self._stream(part, hosts=1):
            images.append(batch["image"][batch["valid"]])
            labels.append(batch["label"][batch["valid"]])
        stacked = np.concatenate(images)
        return LabeledFeatures(stacked.reshape(len(stacked), -1), np.concatenate(labels))

    def _stream(self, part: str, hosts: int | None = None):
        config = self._config
        limit = {"train": config.max_train_images, "test": config.max_test_images}[part]
        return build_eval_stream(
            self._sources[part],
            image_size=config.image_size,
            batch_size=config.batch_size,
            max_pixels=self._max_pixels,
            host=0 if hosts else jax.process_index(),
            hosts=hosts or jax.process_count(),
            max_images=limit,
        )


def check_labels(config: Any, sources: dict[str, ImageSource]) -> None:
    """Checks that k-NN can classify.

    Args:
      config: the section `knn`.
      sources: "train" and "test".

    Raises:
      ValueError: if a source has no labels, the classes differ, or there are fewer training images
        than neighbours.
    """
    train, test = sources["train"], sources["test"]
    for part, source in (("train", train), ("test", test)):
        if not source.class_names:
            raise ValueError(
                f"config.knn.{part} has no labels: put its images into one folder per class, "
                "measure without labels with --config.knn.measure=proxies (on config.knn.test), or "
                "turn the online evaluation off with --config.knn.every_epochs=0.0"
            )
    if train.class_names != test.class_names:
        only = sorted(set(train.class_names) ^ set(test.class_names))
        raise ValueError(
            f"config.knn.train and config.knn.test have different classes; in one only: {only[:10]}"
        )
    neighbours = min(len(train), config.max_train_images)
    if max(config.k) > neighbours:
        raise ValueError(
            f"config.knn.k {tuple(config.k)} needs more neighbours than there are training "
            f"images ({neighbours}); try --config.knn.k='({neighbours},)'"
        )


def check_knn(config: Any, patch_size: int, mesh: Mesh) -> None:
    """Checks the numbers of `config.knn` before a run is half way.

    Args:
      config: the section `knn`.
      patch_size: of the backbone, in pixels.
      mesh: of the devices.

    Raises:
      ValueError: if a number is out of range, or a network is unknown.
    """
    if config.batch_size < 1 or config.batch_size % mesh.size:
        raise ValueError(
            f"knn.batch_size ({config.batch_size}) must be a multiple of the {mesh.size} devices; "
            f"try --config.knn.batch_size={max(config.batch_size // mesh.size, 1) * mesh.size}"
        )
    if config.image_size < patch_size:
        raise ValueError(
            f"knn.image_size ({config.image_size}) is smaller than one patch of {patch_size} pixels"
        )
    if not config.k or min(config.k) < 1 or not config.temperature > 0:
        raise ValueError(
            f"knn.k {tuple(config.k)} must name numbers of neighbours >= 1 and knn.temperature "
            f"({config.temperature}) must be positive"
        )
    if min(config.max_train_images, config.max_test_images) < 1:
        raise ValueError(
            f"knn.max_train_images ({config.max_train_images}) and knn.max_test_images "
            f"({config.max_test_images}) must be at least 1"
        )
    if config.measure not in MEASURES:
        raise ValueError(f"unknown knn.measure {config.measure!r}; known: {MEASURES}")
    unknown = sorted(set(config.networks) - set(NETWORKS))
    if unknown:
        raise ValueError(f"unknown knn.networks {unknown}; known: {sorted(NETWORKS)}")
