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


class OnlineKnn:
    """Classifies test images by their nearest training images; the only use of labels."""

    def __init__(self, whole_config: Any, network: Network, mesh: Mesh):
        """Opens both sources.

        Args:
          whole_config: with the sections `knn` and `max_pixels`.
          network: of student and teacher.
          mesh: of the devices.

        Raises:
          ValueError: if a source has no labels, or the sources have other classes.
        """
        config = whole_config.knn
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
