"""k-NN accuracy of the teacher while it trains."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from dino_jax.data.pipeline import build_eval_stream
from dino_jax.data.sources import ImageSource, build_source
from dino_jax.evaluation.features import LabeledFeatures, extract_features, make_extractor
from dino_jax.evaluation.knn import knn_accuracy
from dino_jax.models.network import Network

NETWORKS = ("student", "teacher")


class OnlineKnn:
    """Classifies test images by their nearest training images; the only use of labels."""

    def __init__(self, whole_config: Any, network: Network, mesh: Mesh):
        """Opens both sources.

        Args:
          whole_config: with the sections `knn` and `max_pixels`.
          network: of student and teacher.
          mesh: of the devices.

        Raises:
          ValueError: if a source has no labels, the sources have other classes, or a number of
            `knn` does not fit the sources, the mesh or the network.
        """
        config = whole_config.knn
        check_knn(config, network.backbone.patch_size, mesh)
        self._config, self._mesh, self._max_pixels = config, mesh, whole_config.max_pixels
        self._extract = make_extractor(network, mesh)
        self._train, self._test = build_source(config.train), build_source(config.test)
        for part, source in (("train", self._train), ("test", self._test)):
            if not source.class_names:
                raise ValueError(
                    f"config.knn.{part} has no labels: put its images into one folder per "
                    "class, or turn the online k-NN off with --config.knn.every_epochs=0.0"
                )
        if self._train.class_names != self._test.class_names:
            only = sorted(set(self._train.class_names) ^ set(self._test.class_names))
            raise ValueError(
                f"config.knn.train and config.knn.test have different classes; in one only: "
                f"{only[:10]}"
            )
        neighbours = min(len(self._train), config.max_train_images)
        if max(config.k) > neighbours:
            raise ValueError(
                f"config.knn.k {tuple(config.k)} needs more neighbours than there are training "
                f"images ({neighbours}); try --config.knn.k='({neighbours},)'"
            )

    def __call__(self, networks: dict[str, Any]) -> dict[str, float]:
        """Accuracies in percent, such as {"knn10/teacher": 80.5}.

        Args:
          networks: variables by name; those named in `config.knn.networks` are evaluated.
        """
        results = {}
        for name in self._config.networks:
            parts = [
                extract_features(self._extract, networks[name], self._stream(part), self._mesh)
                for part in ("train", "test")
            ]
            results |= self._accuracy(name, *parts)
        return results

    def raw_pixels(self) -> dict[str, float]:
        """The same for the pixels themselves, if `config.knn.raw_pixels` asks for it."""
        if not self._config.raw_pixels:
            return {}
        return self._accuracy("raw_pixels", *(self._pixels(part) for part in ("train", "test")))

    def _accuracy(
        self, name: str, train: LabeledFeatures, test: LabeledFeatures
    ) -> dict[str, float]:
        config = self._config
        accuracy = knn_accuracy(*train, *test, k=config.k, temperature=config.temperature)
        return {f"knn{k}/{name}": value for k, value in accuracy.items()}

    def _pixels(self, part: str) -> LabeledFeatures:
        images, labels = [], []
        for batch in self._stream(part, hosts=1):
            images.append(batch["image"][batch["valid"]])
            labels.append(batch["label"][batch["valid"]])
        stacked = np.concatenate(images)
        return LabeledFeatures(stacked.reshape(len(stacked), -1), np.concatenate(labels))

    def _stream(self, part: str, hosts: int | None = None):
        source: ImageSource = {"train": self._train, "test": self._test}[part]
        config = self._config
        limit = {"train": config.max_train_images, "test": config.max_test_images}[part]
        return build_eval_stream(
            source,
            image_size=config.image_size,
            batch_size=config.batch_size,
            max_pixels=self._max_pixels,
            host=0 if hosts else jax.process_index(),
            hosts=hosts or jax.process_count(),
            max_images=limit,
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
    unknown = sorted(set(config.networks) - set(NETWORKS))
    if unknown:
        raise ValueError(f"unknown knn.networks {unknown}; known: {sorted(NETWORKS)}")
