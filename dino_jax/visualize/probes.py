"""The same few images at every evaluation: attention, patch features and nearest neighbours."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dino_jax.data.pipeline import build_eval_stream
from dino_jax.data.sources import ImageSource, build_source
from dino_jax.devices.sharding import replicated, shard_batch
from dino_jax.models.network import Network
from dino_jax.visualize.attention import cls_to_patches
from dino_jax.visualize.gallery import Gallery

SOURCES = ("test", "train")


class Look(NamedTuple):
    """What a network makes of P probe images, in a grid of h x w patches.

    Attributes:
      attention: [P, H, h, w] float32, last block, cls to patches; None if the backbone has none.
      patches: [P, h, w, D] float32 features.
      nearest: [P, k] int64 indices into the training images.
      cosine: [P, k] float32 cosine similarities, descending.
    """

    attention: np.ndarray | None
    patches: np.ndarray
    nearest: np.ndarray
    cosine: np.ndarray


class Probes:
    """Fixed probe images and what a network sees in them.

    Attributes:
      source: of the probe images.
      train: of the neighbours.
      indices: [P] int64 into `source`.
      images: [P, S, S, 3] uint8.
    """

    def __init__(self, config: Any, network: Network, mesh: Mesh, train: ImageSource):
        """Reads the probe images; every process reads all of them.

        Args:
          config: the whole config, with the sections `probes` and `knn`.
          network: whose variables will be shown.
          mesh: of the devices.
          train: the training images.

        Raises:
          ValueError: if a value of `config.probes` is out of range or no probe can be read.
          OSError: if the files of the source are not there.
        """
        check_probes(config.probes)
        self._mesh, self._network, self._neighbours = mesh, network, config.probes.neighbours
        held_out = config.probes.source == "test"
        self.train, self.source = train, build_source(config.knn.test) if held_out else train
        size, limit = config.knn.image_size, config.max_pixels
        self.indices, self.images = _read(self.source, config.probes.count, size, limit)
        self._gallery = Gallery(
            train, network, mesh, count=config.probes.gallery, image_size=size, max_pixels=limit
        )
        self._see = jax.jit(self._forward, out_shardings=replicated(mesh))

    def look(self, variables: Any) -> Look:
        """Looks at the probes; all processes take part and get the same.

        Args:
          variables: of the network.
        """
        images = shard_batch({"image": self.images}, replicated(self._mesh))["image"]
        seen = {name: np.asarray(x) for name, x in self._see(variables, images).items()}
        exclude = self.indices if self.source is self.train else None
        found = self._gallery.nearest(variables, seen["cls"], self._neighbours, exclude)
        return Look(seen.get("attention"), seen["patches"], *found)

    def _forward(self, variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        """One image after the other: attention weights of all tokens are large."""
        return jax.lax.map(partial(self._forward_one, variables), images)

    def _forward_one(self, variables: Any, image: jax.Array) -> dict[str, jax.Array]:
        features: Any = self._network.apply(variables, image[None])
        cls, patches = features["cls"][0], features["patches"][0]
        side = math.isqrt(len(patches))  # probes are square
        seen = {"cls": cls, "patches": patches.reshape(side, side, -1)}
        if self._network.backbone.has_attention:
            attention: Any = self._network.apply(variables, image[None], method="attention")
            seen["attention"] = cls_to_patches(attention[0], (side, side))
        return {name: x.astype(jnp.float32) for name, x in seen.items()}


def check_probes(config: Any) -> None:
    """Checks the values of `config.probes` before a run starts.

    Raises:
      ValueError: if one is out of range or unknown.
    """
    for name in ("count", "neighbours", "gallery"):
        if config[name] < 1:
            raise ValueError(f"probes.{name} must be at least 1, got {config[name]}")
    if config.source not in SOURCES:
        raise ValueError(f"unknown probes.source {config.source!r}; known: {list(SOURCES)}")


def _read(
    source: ImageSource, count: int, image_size: int, max_pixels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Indices [P] and pixels [P, S, S, 3] of evenly spaced images, those that can be read."""
    count = min(count, len(source))
    stream = build_eval_stream(
        source,
        image_size=image_size,
        batch_size=count,
        max_pixels=max_pixels,
        host=0,
        hosts=1,
        max_images=count,
    )
    (batch,) = stream
    valid = batch["valid"]
    if not valid.any():
        raise ValueError(
            f"none of the {count} probe images can be read; choose others with "
            "--config.probes.source, or --config.probes.count=0 for none"
        )
    return (np.arange(count) * len(source) // count)[valid], batch["image"][valid]
