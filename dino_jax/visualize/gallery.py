"""Nearest neighbors among some of the training images."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from dino_jax.data.pipeline import build_eval_stream
from dino_jax.data.sources import ImageSource
from dino_jax.evaluation.features import extract_features, make_extractor
from dino_jax.models.network import Network

MOST_PER_BATCH = 256  # images embedded at once


class Gallery:
    """Evenly spaced images of a source, embedded again for every query."""

    def __init__(
        self,
        source: ImageSource,
        network: Network,
        mesh: Mesh,
        *,
        count: int,
        image_size: int,
        max_pixels: int,
    ):
        """Reads nothing yet.

        Args:
          source: source of the images.
          network: network whose cls features are compared.
          mesh: mesh of the devices.
          count: number of images; at most all of the source.
          image_size: side in pixels, see `view.resize_for_evaluation`.
          max_pixels: larger images count as unreadable.
        """
        self._source, self._mesh = source, mesh
        self._count = min(count, len(source))
        self._image_size, self._max_pixels = image_size, max_pixels
        self._channels = network.backbone.in_channels
        self._extract = make_extractor(network, mesh)

    def nearest(
        self, variables: Any, queries: np.ndarray, k: int, exclude: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k images whose cls features have the largest cosine similarity.

        Args:
          variables: variables of the network.
          queries: [P, D] cls features.
          k: number of neighbors; there may be fewer readable images.
          exclude: [P] source index that may not answer each query; None for none.

        Returns:
          [P, k] int64 source indices and [P, k] float32 cosine similarities, descending; the same
          on every process.
        """
        found = extract_features(self._extract, variables, self._stream(), self._mesh)
        indices = found.labels.astype(np.int64) * len(self._source) // self._count
        cosine = _unit(queries) @ _unit(found.features).T
        if exclude is not None:
            k = min(k, len(indices) - 1)
            cosine[exclude[:, None] == indices] = -np.inf
        order = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
        return indices[order], np.take_along_axis(cosine, order, axis=1)

    def _stream(self) -> Iterator[dict[str, np.ndarray]]:
        size, hosts = self._mesh.size, jax.process_count()
        batch_size = math.ceil(min(self._count, MOST_PER_BATCH) / size) * size
        stream = build_eval_stream(
            self._source,
            image_size=self._image_size,
            batch_size=batch_size,
            max_pixels=self._max_pixels,
            host=jax.process_index(),
            hosts=hosts,
            max_images=self._count,
            channels=self._channels,
        )
        return number_rows(stream, batch_size, jax.process_index(), hosts)


def number_rows(
    stream: Iterable[dict[str, np.ndarray]], batch_size: int, host: int, hosts: int
) -> Iterator[dict[str, np.ndarray]]:
    """Puts the place of every row in the whole stream into its label.

    Args:
      stream: a host's batches of `build_eval_stream`.
      batch_size: images per batch over all hosts.
      host: index of this host.
      hosts: number of hosts.
    """
    rows = batch_size // hosts
    for number, batch in enumerate(stream):
        first = number * batch_size + host * rows
        yield {**batch, "label": np.arange(first, first + rows, dtype=np.int32)}


def _unit(features: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return (features / np.maximum(norms, 1e-12)).astype(np.float32)
