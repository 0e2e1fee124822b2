"""Frozen features of a whole data set."""

import collections
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from dino_jax.devices.sharding import batch_sharding, replicated, shard_batch
from dino_jax.models.network import Network

AHEAD = 2  # batches that the devices may lag behind the decoding
NOTHING_LOST = np.zeros(0, np.int64)

Extract = Callable[[Any, jax.Array], jax.Array]
Take = Callable[[Network, Any, jax.Array], jax.Array]


class LabeledFeatures(NamedTuple):
    """Features of one data set, on every host.

    Attributes:
      features: [N, D] float32.
      labels: [N] int32, -1 for none.
      unreadable: [U] int64 source indices of the images that could not be read; they have no row.
    """

    features: np.ndarray
    labels: np.ndarray
    unreadable: np.ndarray = NOTHING_LOST


def cls_token(network: Network, variables: Any, images: jax.Array) -> jax.Array:
    """[B, D] features of images [B, H, W, C]."""
    features: Any = network.apply(variables, images)
    return features["cls"]


def make_extractor(network: Network, mesh: Mesh, take: Take = cls_token) -> Extract:
    """Compiles (variables, images [B, H, W, C]) -> [B, D] float32, whole on every device.

    Args:
      network: network whose features are taken.
      mesh: mesh of the devices.
      take: (network, variables, images) -> [B, D].
    """

    def extract(variables, images):
        return take(network, variables, images).astype(jnp.float32)

    return jax.jit(extract, out_shardings=replicated(mesh))


def extract_features(
    extract: Extract, variables: Any, stream: Iterable[dict[str, np.ndarray]], mesh: Mesh
) -> LabeledFeatures:
    """Runs all images of an evaluation stream through the network.

    Args:
      extract: from `make_extractor`.
      variables: variables of the network.
      stream: this host's batches of `dino_jax.data.pipeline.build_eval_stream`.
      mesh: mesh of the devices.
    """
    features, labels, unreadable = [], [], []
    running: collections.deque[tuple[jax.Array, dict[str, np.ndarray]]] = collections.deque()

    def finish() -> None:
        rows, marks = running.popleft()
        features.append(np.asarray(rows)[marks["valid"]])
        labels.append(marks["label"][marks["valid"]])
        unreadable.append(marks["unreadable"][marks["unreadable"] >= 0])

    for batch in stream:
        images = shard_batch({"image": batch["image"]}, batch_sharding(mesh))["image"]
        marks = {name: _from_all_hosts(batch[name]) for name in ("valid", "label", "unreadable")}
        running.append((extract(variables, images), marks))
        if len(running) > AHEAD:
            finish()
    while running:
        finish()
    return LabeledFeatures(*(np.concatenate(rows) for rows in (features, labels, unreadable)))


def _from_all_hosts(rows: np.ndarray) -> np.ndarray:
    """Rows of all hosts in the order of the global batch."""
    if jax.process_count() == 1:
        return rows
    return np.asarray(multihost_utils.process_allgather(rows, tiled=True))
