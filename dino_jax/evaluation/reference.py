"""Measures of a teacher against the model that its run started from, in [0, 1]; 1 is best."""

from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from dino_jax.data.pipeline import build_eval_stream
from dino_jax.data.sources import build_source
from dino_jax.evaluation.features import extract_features, make_extractor
from dino_jax.evaluation.neighbours import nearest_neighbours, shared_neighbours
from dino_jax.evaluation.online import OnlineEvaluation, check_knn
from dino_jax.models.network import Network

Reference = dict[str, Any]


class Measure(Protocol):
    """How good a teacher is, in [0, 1].

    Attributes:
      name: for the log.
    """

    name: str

    def reference(self, teacher: Any, known: dict[str, float]) -> Reference:
        """What must be kept of the model that a run starts from, as JSON; "value" is its measure.

        Args:
          teacher: its variables.
          known: online k-NN accuracies of this teacher in percent, if they were just measured.
        """
        ...

    def value(self, teacher: Any, reference: Reference, known: dict[str, float]) -> float:
        """The measure of a later teacher.

        Raises:
          ValueError: if the reference is one of other images.
        """
        ...


class KnnAccuracy:
    """k-NN accuracy by labels, with the first k of `config.knn`."""

    def __init__(self, whole_config: Any, network: Network, mesh: Mesh):
        """Opens the sources of `config.knn`; raises ValueErrors as `OnlineEvaluation` does."""
        config = whole_config.copy_and_resolve_references()
        config.knn.update(networks=("teacher",), measure="knn")
        self._knn = OnlineEvaluation(config, network, mesh)
        self.name = f"knn{config.knn.k[0]}/teacher"

    def reference(self, teacher: Any, known: dict[str, float]) -> Reference:
        return {"value": self.value(teacher, {}, known)}

    def value(self, teacher: Any, reference: Reference, known: dict[str, float]) -> float:
        del reference
        accuracies = known if self.name in known else self._knn({"teacher": teacher})
        return accuracies[self.name] / 100.0


class NeighbourAgreement:
    """Share of the k nearest neighbours of an image that it had in the first model; no labels.

    Neighbours by cosine similarity of the cls tokens, among the images of `config.knn.test`, k the
    first of `config.knn.k` (mutual k-NN alignment, arXiv:2405.07987, Section 3). 1 for the first
    model itself, k / (N - 1) for one that has nothing to do with it. It measures change, not
    quality: training towards better features lowers it too, but far less than destroying them.
    """

    def __init__(self, whole_config: Any, network: Network, mesh: Mesh):
        """Opens `config.knn.test`.

        Raises:
          ValueError: if a number of `config.knn` is out of range, or k too large for the images.
        """
        config = whole_config.knn
        check_knn(config, network.backbone.patch_size, mesh)
        self._config, self._mesh, self._max_pixels = config, mesh, whole_config.max_pixels
        self._source, self._k = build_source(config.test), config.k[0]
        self._extract = make_extractor(network, mesh)
        self.name = f"agreement{self._k}/teacher"
        count = min(len(self._source), config.max_test_images)
        if self._k >= count:
            raise ValueError(
                f"config.knn.k[0] ({self._k}) neighbours need more than the {count} images of "
                "config.knn.test"
            )

    def reference(self, teacher: Any, known: dict[str, float]) -> Reference:
        del known
        return {"value": 1.0, "neighbours": self._neighbours(teacher).tolist()}

    def value(self, teacher: Any, reference: Reference, known: dict[str, float]) -> float:
        del known
        before, now = np.asarray(reference["neighbours"]), self._neighbours(teacher)
        if before.shape != now.shape:
            raise ValueError(
                f"the readable images of config.knn.test are no longer those of the start: "
                f"{len(before)} then, {len(now)} now"
            )
        return shared_neighbours(before, now)

    def _neighbours(self, teacher: Any) -> np.ndarray:
        """[N, k]"""
        config = self._config
        stream = build_eval_stream(
            self._source,
            image_size=config.image_size,
            batch_size=config.batch_size,
            max_pixels=self._max_pixels,
            host=jax.process_index(),
            hosts=jax.process_count(),
            max_images=config.max_test_images,
        )
        features = extract_features(self._extract, teacher, stream, self._mesh).features
        return nearest_neighbours(features, self._k)


MEASURES = {"knn": KnnAccuracy, "agreement": NeighbourAgreement}
