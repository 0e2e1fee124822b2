"""Inputs of linear classifiers: tokens of the last blocks of a frozen backbone, as one vector."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dino_jax.models.backbone import Features
from dino_jax.models.network import Network, last_outputs

LinearFeatures = Callable[[Sequence[Features], int, bool], jax.Array]


def dino_linear_features(outputs: Sequence[Features], last_blocks: int, avgpool: bool) -> jax.Array:
    """The input of DINO's classifiers.

    Args:
      outputs: {"cls": [B, D], "patches": [B, N, D]} of at least `last_blocks` blocks after the
        final norm, the last block at the end.
      last_blocks: n, number of blocks to use.
      avgpool: whether to include the mean of the patch tokens. It is interleaved with the
        cls token: [cls0, mean0, cls1, mean1, …], as the released classifiers expect.

    Returns:
      [B, n D], with the mean [B, 2 D] float32.

    Raises:
      ValueError: for the mean with several blocks, which DINO does not have.
    """
    if avgpool and last_blocks > 1:
        raise ValueError(
            f"DINO's features have the mean of the patch tokens only with one block, got "
            f"{last_blocks}; use DINOv2's"
        )
    cls = _cls_tokens(outputs, last_blocks)
    if not avgpool:
        return cls
    return jnp.stack([cls, _mean_patch(outputs)], axis=-1).reshape(len(cls), -1)


def dinov2_linear_features(
    outputs: Sequence[Features], last_blocks: int, avgpool: bool
) -> jax.Array:
    """The input of DINOv2's classifiers: the mean of the patch tokens of the last block at the end.

    Args:
      outputs: as for `dino_linear_features`.
      last_blocks: n, number of blocks whose cls tokens are concatenated.
      avgpool: whether to include the mean of the patch tokens.

    Returns:
      [B, n D], with the mean [B, (n + 1) D] float32.
    """
    cls = _cls_tokens(outputs, last_blocks)
    return jnp.concatenate([cls, _mean_patch(outputs)], axis=-1) if avgpool else cls


LINEAR_FEATURES: dict[str, LinearFeatures] = {
    "dino": dino_linear_features,
    "dinov2": dinov2_linear_features,
    "mae": dinov2_linear_features,
}


def pool_outputs(
    network: Network, variables: Any, images: jax.Array, last_blocks: int
) -> jax.Array:
    """[B, n + 1, D] float32: all inputs of linear features, to keep for many images."""
    outputs = last_outputs(network, variables, images, last_blocks)
    parts = [*(output["cls"] for output in outputs), jnp.mean(outputs[-1]["patches"], axis=1)]
    return jnp.stack(parts, axis=1).astype(jnp.float32)


def unpool_outputs(pooled: jax.Array) -> tuple[Features, ...]:
    """Inverse of `pool_outputs`: outputs whose only patch token is the mean."""
    mean = pooled[:, -1:]
    return tuple({"cls": pooled[:, block], "patches": mean} for block in range(pooled.shape[1] - 1))


def _cls_tokens(outputs: Sequence[Features], last_blocks: int) -> jax.Array:
    tokens = [output["cls"].astype(jnp.float32) for output in outputs[-last_blocks:]]
    return jnp.concatenate(tokens, axis=-1)


def _mean_patch(outputs: Sequence[Features]) -> jax.Array:
    return jnp.mean(outputs[-1]["patches"].astype(jnp.float32), axis=1)
