"""The same few images at every evaluation: attention, patch features and nearest neighbors."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dino_jax.config.section import option
from dino_jax.data.sources import ImageSource
from dino_jax.devices.sharding import replicated, shard_batch
from dino_jax.evaluation.online.base import Context, Images, check_size
from dino_jax.evaluation.online.build import check_named, held_out_images
from dino_jax.optim.parameter_groups import is_stacked
from dino_jax.visualize.attention import cls_to_patches
from dino_jax.visualize.gallery import Gallery
from dino_jax.visualize.reconstruction import build_reconstruction


@dataclass(frozen=True)
class ProbesConfig:
    """The same few images at every evaluation: attention, patch PCA, nearest training images."""

    count: int = option(8, "images; 0: none", at_least=0, at_most=1000)
    evaluation: str = option(
        "knn", "name in config.evaluations whose held-out images are shown; '': training images"
    )
    neighbours: int = option(5, "shown for each image", at_least=1, at_most=1000)
    gallery: int = option(1000, "training images that they are chosen from", at_least=1)


class Look(NamedTuple):
    """Outputs of a network for P probe images, in a grid of h x w patches.

    Attributes:
      attention: [P, H, h, w] float32, last block, cls to patches; None if the backbone has none.
      patches: [P, h, w, D] float32 features.
      nearest: [P, k] int64 indices into the training images.
      cosine: [P, k] float32 cosine similarities, descending.
      filled: [P, S, S, C] uint8, see `Reconstruction.fill`; None if the network has no decoder.
    """

    attention: np.ndarray | None
    patches: np.ndarray
    nearest: np.ndarray
    cosine: np.ndarray
    filled: np.ndarray | None = None


class ProbeImages:
    """Fixed probe images and what a network sees in them.

    Attributes:
      source: source of the probe images.
      train: source of the neighbors.
      indices: [P] int64 into `source`.
      images: [P, S, S, C] uint8.
      reconstruction: fills in hidden patches of the images, if the network has a decoder.
      masks: bool [P, N], the patches that it does not see; [P, 0] without a decoder.
    """

    def __init__(self, config: Any, context: Context, train: ImageSource):
        """Reads the probe images; every process reads all of them.

        An evaluation without images has none to show: then they are training images.

        Args:
          config: the whole config.
          context: context of the run; the evaluated network looks at the images.
          train: the training images.

        Raises:
          ValueError: as `check_probes`, and if no probe can be read.
          OSError: if the files of the source are not there.
        """
        check_probes(config, context)
        probes, limit = config.probes, context.max_pixels
        self._mesh, self._network = context.mesh, context.networks[context.evaluated]
        self._neighbours = probes.neighbours
        held_out = held_out_images(probes.evaluation, config) if probes.evaluation else None
        self.train, self.source = train, context.open_source(*held_out) if held_out else train
        images = Images(
            self.source,
            count := min(probes.count, len(self.source)),
            context.image_size,
            count,
            limit,
            context.decoding.channels,
        )
        self.indices, self.images = _read(images)
        self._gallery = Gallery(
            train,
            self._network,
            self._mesh,
            count=probes.gallery,
            image_size=context.image_size,
            max_pixels=limit,
        )
        self.reconstruction = build_reconstruction(config, self._network, context.image_size)
        self.masks = np.zeros((len(self.images), 0), bool)
        if self.reconstruction:
            self.masks = self.reconstruction.masks(len(self.images))
        self._see = jax.jit(self._forward, out_shardings=replicated(self._mesh))

    def look(self, variables: Any) -> Look:
        """Looks at the probes; all processes take part and get the same.

        Args:
          variables: variables of the network.
        """
        batch = {"image": self.images, "masks": self.masks}
        batch = shard_batch(batch, replicated(self._mesh))
        seen = {name: np.asarray(x) for name, x in self._see(variables, batch).items()}
        exclude = self.indices if self.source is self.train else None
        found = self._gallery.nearest(variables, seen["cls"], self._neighbours, exclude)
        return Look(seen.get("attention"), seen["patches"], *found, seen.get("filled"))

    def _forward(self, variables: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """One image after the other: attention weights of all tokens are large.

        Every device sees every image. What is outside of the loop over the blocks, it needs as a
        whole; that is gathered once, not for each image.
        """

        def gather(path: tuple, leaf: jax.Array) -> jax.Array:
            if is_stacked(path):
                return leaf
            return jax.lax.with_sharding_constraint(leaf, replicated(self._mesh))

        variables = jax.tree_util.tree_map_with_path(gather, variables)
        return jax.lax.map(partial(self._forward_one, variables), batch)

    def _forward_one(self, variables: Any, probe: dict[str, jax.Array]) -> dict[str, jax.Array]:
        image = probe["image"]
        features: Any = self._network.apply(variables, image[None])
        cls, patches = features["cls"][0], features["patches"][0]
        side = math.isqrt(len(patches))  # probes are square
        seen = {"cls": cls, "patches": patches.reshape(side, side, -1)}
        if self._network.backbone.has_attention:
            attention: Any = self._network.apply(variables, image[None], method="attention")
            seen["attention"] = cls_to_patches(attention[0], (side, side))
        seen = {name: x.astype(jnp.float32) for name, x in seen.items()}
        if self.reconstruction:
            masks = probe["masks"][None]
            seen["filled"] = self.reconstruction.fill(variables, image[None], masks)[0]
        return seen


def check_probes(config: Any, context: Context) -> None:
    """Checks what needs no images.

    Args:
      config: the whole config.
      context: context of the run.

    Raises:
      ValueError: if the evaluation is unknown, the images are smaller than a patch, or a decoder
        is for other ones.
    """
    if not config.probes.count or not config.evaluations:
        return
    if config.probes.evaluation:
        check_named("config.probes.evaluation", config.probes.evaluation, config)
    check_size("config.image_size", context.image_size, context, [context.evaluated])
    build_reconstruction(config, context.networks[context.evaluated], context.image_size)


def _read(images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Indices [P] and pixels [P, S, S, C] of evenly spaced images, those that can be read."""
    count = images.count
    (batch,) = images.stream(host=0, hosts=1)
    valid = batch["valid"]
    if not valid.any():
        raise ValueError(
            f"none of the {count} probe images can be read; choose others with "
            "--config.probes.evaluation, or --config.probes.count=0 for none"
        )
    return (np.arange(count) * len(images.source) // count)[valid], batch["image"][valid]
