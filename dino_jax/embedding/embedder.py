"""Embeds a batch of images: tokens of the last layers, optionally projected and normalized."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dino_jax.devices.sharding import batch_sharding, replicated, shard_batch
from dino_jax.models.network import Network, last_outputs
from dino_jax.weights.model import Model

Embed = Callable[[np.ndarray], jax.Array]


def make_embedder(
    model: Model,
    mesh: Mesh,
    *,
    tokens: str,
    layers: int,
    projection: Callable[[jax.Array], jax.Array] | None = None,
    normalize: bool = False,
) -> Embed:
    """Compiles images [B, S, S, C] uint8 -> [B, d] float32; the call returns before it is done.

    Args:
      model: model whose features are taken.
      mesh: mesh of this process's devices; the batch is split over them, so they must divide it.
      tokens: "cls", "mean" (of the patch tokens) or "both", one after the other.
      layers: L, number of last blocks; their features are concatenated, those of the last block
        at the end.
      projection: applied to them: [..., D] to [..., d].
      normalize: whether to scale to length 1, at the end.

    Raises:
      ValueError: if a name is unknown or there are fewer layers.
    """
    check_tokens(model.network, tokens, layers)
    variables = jax.device_put(model.variables, replicated(mesh))

    @jax.jit
    def embed(variables: Any, images: jax.Array) -> jax.Array:
        x = take_tokens(model.network, variables, images, tokens, layers)
        if projection is not None:
            x = projection(x)
        if normalize:
            x = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
        return x

    return lambda images: embed(
        variables, shard_batch({"image": images}, batch_sharding(mesh))["image"]
    )


def check_tokens(network: Network, tokens: str, layers: int) -> None:
    """Checks that a network has these features.

    Raises:
      ValueError: if it does not have them.
    """
    depth = network.backbone.depth
    if layers > depth:
        raise ValueError(
            f"--layers={layers}: this {type(network.backbone).__name__} gives the features of "
            f"1 to {depth} layers"
        )


def width_of(model: Model, image_size: tuple[int, int], tokens: str, layers: int) -> int:
    """D, the numbers per image of `take_tokens`."""
    channels = model.network.backbone.in_channels
    images = jax.ShapeDtypeStruct((1, *image_size, channels), jnp.uint8)
    take = partial(take_tokens, model.network, tokens=tokens, layers=layers)
    return jax.eval_shape(take, model.variables, images).shape[-1]


def take_tokens(
    network: Network, variables: Any, images: jax.Array, tokens: str, layers: int
) -> jax.Array:
    """[B, D] float32 features of images, see `make_embedder`."""
    outputs = last_outputs(network, variables, images, layers)
    kinds = {"cls": lambda x: x["cls"], "mean": lambda x: jnp.mean(x["patches"], axis=1)}
    names = ("cls", "mean") if tokens == "both" else (tokens,)
    parts = [kinds[name](output).astype(jnp.float32) for output in outputs for name in names]
    return jnp.concatenate(parts, axis=-1)
