"""A backbone with its projection heads."""

import importlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dino_jax.devices.kernels.shared_weights import SharedWeights
from dino_jax.models.backbone import Features
from dino_jax.models.crops import Crops
from dino_jax.models.head import order_heads


class Network(nn.Module):
    """One branch of the self-distillation; student and teacher are two variable trees of it.

    The mode of a pass follows from the caller's arguments: a "drop_path" RNG
    turns stochastic depth on, a mutable "batch_stats" collection makes BatchNorm use and track the
    statistics of the batch.

    Attributes:
      backbone: a module that follows the protocol `Backbone`.
      heads: modules by name that follow the protocol `Head`; `clone(heads=…)` makes a network with
        some of them.
      mean: mean of every channel, for images in [0, 1].
      std: standard deviation of every channel, for images in [0, 1].
      weights: how the devices of a mesh share them, see `placement.fit_to_mesh`.
    """

    backbone: Any
    heads: Mapping[str, nn.Module]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: SharedWeights | None = None

    def __call__(
        self,
        images: jax.Array,
        masks: jax.Array | None = None,
        visible: jax.Array | None = None,
    ) -> Features:
        """Features of images.

        Args:
          images: [B, H, W, C], uint8 or already normalized floats.
          masks: bool [B, N], see `Crops`.
          visible: int32 [B, k], see `Crops`.
        """
        return self.encode_groups([Crops(images, masks, visible)])[0]

    def encode_groups(self, groups: Sequence[Crops]) -> list[Features]:
        """Features of crops of several sizes, as `__call__` gives them for one."""
        normalized = [crops._replace(images=self.normalize(crops.images)) for crops in groups]
        return self.backbone.encode_groups(normalized)

    def project(self, head: str, x: Any) -> jax.Array:
        """[..., D] features, or tokens, to the [..., K] output of one head."""
        module: Any = self.heads[head]
        if self.weights is None or not module.row_wise:
            return module(x)
        alone, params = module.clone(parent=None, name=None), module.variables["params"]
        logits = self.weights.run(
            lambda params, x: alone.apply({"params": params}, x), params, (x,), jnp.float32
        )
        return logits[: len(jax.tree.leaves(x)[0])]

    def intermediate(
        self, images: jax.Array, layers: Sequence[int], normalize: bool = True
    ) -> tuple[Features, ...]:
        """Features after the given blocks; see `Backbone.intermediate`."""
        return self.backbone.intermediate(self.normalize(images), layers, normalize)

    def attention(self, images: jax.Array, layer: int = -1) -> jax.Array:
        """Attention weights of one block; see `Backbone.attention`."""
        return self.backbone.attention(self.normalize(images), layer)

    def normalize(self, images: jax.Array) -> jax.Array:
        """Maps uint8 to zero mean and unit variance; floats are taken as already normalized."""
        if images.dtype != jnp.uint8:
            return images
        mean, std = jnp.asarray(self.mean), jnp.asarray(self.std)
        return (images.astype(jnp.float32) / 255.0 - mean) / std

    def init_all(self, images: jax.Array) -> None:
        """Touches every parameter; call as `network.init(rng, images, method="init_all")`.

        Every head gets the input that it names.

        Raises:
          ValueError: if the input of a head does not exist.
        """
        outputs: dict[str, Any] = dict(self(images))
        outputs["tokens"] = (outputs["cls"], outputs["patches"], None)
        for name in order_heads(self.heads):
            head = self.heads[name]
            outputs[name] = head(outputs[head.of])


def last_outputs(
    network: Network, variables: Any, images: jax.Array, layers: int
) -> tuple[Features, ...]:
    """{"cls": [B, D], "patches": [B, N, D], …} after each of the last blocks."""
    apply: Any = network.apply
    if layers == 1:
        return (apply(variables, images),)
    return apply(variables, images, tuple(range(-layers, 0)), method="intermediate")


def __getattr__(name: str) -> Any:
    """`build_network` where version 0.1 had it."""
    if name != "build_network":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    new = "dino_jax.models.build"
    warnings.warn(f"{__name__}.{name} is now {new}.{name}", DeprecationWarning, stacklevel=2)
    return getattr(importlib.import_module(new), name)
