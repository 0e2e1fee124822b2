"""Frozen features of a whole data set."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from dino_jax.models.network import Network
from dino_jax.sharding import batch_sharding, replicated, shard_batch

Extract = Callable[[Any, jax.Array], jax.Array]


class LabeledFeatures(NamedTuple):
    """Features of one data set, on every host.

    Attributes:
      features: [N, D] float32.
      labels: [N] int32, -1 for none.
    """

    features: np.ndarray
    labels: np.ndarray


def make_extractor(network: Network, mesh: Mesh) -> Extract:
    """Compiles (variables, images [B, H, W, C]) -> [B, D] cls features, whole on every device."""

    def extract(variables, images):
        features: Any = network.apply(variables, images)
        return features["cls"].astype("float32")

    return jax.jit(extract, out_shardings=replicated(mesh))


def extract_features(
    extract: Extract, variables: Any, stream: Iterable[dict[str, np.ndarray]], mesh: Mesh
) -> LabeledFeatures:
    """Runs all images of an evaluation stream through the network.

    Args:
      extract: from `make_extractor`.
      variables: of the network.
      stream: this host's batches of `dino_jax.data.pipeline.build_eval_stream`.
      mesh: of the devices.
    """
    features, labels = [], []
    for batch in stream:
        images = shard_batch({"image": batch["image"]}, batch_sharding(mesh))["image"]
        rows = np.asarray(extract(variables, images))
        marks = {name: _from_all_hosts(batch[name]) for name in ("valid", "label")}
        features.append(rows[marks["valid"]])
        labels.append(marks["label"][marks["valid"]])
    return LabeledFeatures(np.concatenate(features), np.concatenate(labels))


def _from_all_hosts(rows: np.ndarray) -> np.ndarray:
    """Rows of all hosts in the order of the global batch."""
    if jax.process_count() == 1:
        return rows
    return np.asarray(multihost_utils.process_allgather(rows, tiled=True))
