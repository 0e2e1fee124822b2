"""Many linear classifiers that are trained together in one pass of the frozen backbone."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from dino_jax.devices.sharding import replicated
from dino_jax.evaluation.accuracy import TopAccuracy, rank_of, top_accuracy
from dino_jax.evaluation.linear_features import LinearFeatures, unpool_outputs
from dino_jax.models.network import Network, last_outputs

MOMENTUM = 0.9
WEIGHT_STD = 0.01  # of the first weights, in both papers
TEST_TILE = 1024  # images scored at once


Parameters = dict[str, jax.Array]


class Group(NamedTuple):
    """Classifiers with the same input.

    Attributes:
      last_blocks: number of blocks whose cls tokens are included.
      avgpool: whether the mean of the patch tokens is included.
    """

    last_blocks: int
    avgpool: bool

    def __str__(self) -> str:
        return f"blocks={self.last_blocks} avgpool={'yes' if self.avgpool else 'no'}"


class Head(NamedTuple):
    """One classifier."""

    group: Group
    learning_rate: float

    def __str__(self) -> str:
        return f"{self.group} lr={self.learning_rate:g}"


@dataclasses.dataclass(frozen=True)
class Heads:
    """One classifier for every group and learning rate.

    Attributes:
      groups: inputs of the classifiers.
      learning_rates: L learning rates of SGD at the first step.
      features: turns the inputs into one vector.
      classes: C.
    """

    groups: tuple[Group, ...]
    learning_rates: tuple[float, ...]
    features: LinearFeatures
    classes: int

    @property
    def most_blocks(self) -> int:
        """Number of blocks of the group that sees the most."""
        return max(group.last_blocks for group in self.groups)

    def inputs(self, outputs: Any) -> dict[Group, jax.Array]:
        """[B, D of the group] for every group."""
        return {group: self.features(outputs, *group) for group in self.groups}


class HeadState(NamedTuple):
    """Parameters of all classifiers, on every device.

    Attributes:
      parameters: by group: weights [L, D, C] and bias [L, C].
      momentum: momentum of SGD.
    """

    parameters: dict[Group, Parameters]
    momentum: Any


def init_heads(heads: Heads, dim: int, mesh: Mesh) -> HeadState:
    """Draws the initial weights, always the same ones.

    Args:
      heads: classifiers to make.
      dim: D, width of the backbone.
      mesh: mesh of the devices.
    """
    pooled = jax.ShapeDtypeStruct((1, heads.most_blocks + 1, dim), jnp.float32)
    inputs = jax.eval_shape(lambda x: heads.inputs(unpool_outputs(x)), pooled)
    count = len(heads.learning_rates)

    def init() -> HeadState:
        parameters = {
            group: {
                "weights": WEIGHT_STD
                * jax.random.normal(
                    jax.random.fold_in(jax.random.key(0), number),
                    (count, inputs[group].shape[1], heads.classes),
                ),
                "bias": jnp.zeros((count, heads.classes)),
            }
            for number, group in enumerate(heads.groups)
        }
        return HeadState(parameters, _optimizer().init(parameters))

    return jax.jit(init, out_shardings=replicated(mesh))()


def make_head_step(heads: Heads, network: Network, mesh: Mesh) -> Callable[..., Any]:
    """Compiles one step of SGD for all classifiers.

    Args:
      heads: classifiers as in `init_heads`.
      network: the frozen backbone.
      mesh: mesh of the devices.

    Returns:
      (variables, state, batch, factor) -> (state, unreadable): batch of `build_labelled_stream`,
      `factor` of the schedule that multiplies the learning rates, and [B] source indices of images
      that had to be replaced, on every device.
    """

    def loss(parameters: Parameters, x: jax.Array, labels: jax.Array) -> jax.Array:
        logits = logits_of(parameters, x)
        same = jnp.broadcast_to(labels, logits.shape[:-1])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, same)
        return jnp.sum(jnp.mean(losses, axis=-1))

    def total(parameters: Any, inputs: dict[Group, jax.Array], labels: jax.Array) -> jax.Array:
        # A sum: no classifier sees another one's gradient.
        parts = [loss(parameters[group], inputs[group], labels) for group in heads.groups]
        return jnp.sum(jnp.stack(parts))

    def step(
        variables: Any, state: HeadState, batch: dict[str, jax.Array], factor: jax.Array
    ) -> tuple[HeadState, jax.Array]:
        outputs = last_outputs(network, variables, batch["image"], heads.most_blocks)
        gradients = jax.grad(total)(state.parameters, heads.inputs(outputs), batch["label"])
        directions, momentum = _optimizer().update(gradients, state.momentum)
        rates = factor * jnp.array(heads.learning_rates, jnp.float32)
        parameters = jax.tree.map(
            lambda x, direction: x - rates.reshape(-1, *[1] * (x.ndim - 1)) * direction,
            state.parameters,
            directions,
        )
        return HeadState(parameters, momentum), batch["unreadable"]

    return jax.jit(step, donate_argnums=1, out_shardings=replicated(mesh))


def logits_of(parameters: Parameters, x: jax.Array) -> jax.Array:
    """[L, B, C] of [B, D] inputs of one group."""
    logits = jnp.einsum("bd,ldc->lbc", x, parameters["weights"], precision="highest")
    return logits + parameters["bias"][:, None]


def score_heads(
    heads: Heads, state: HeadState, pooled: np.ndarray, labels: np.ndarray
) -> dict[Head, TopAccuracy]:
    """Accuracy of every classifier.

    Args:
      heads: classifiers as in `init_heads`.
      state: trained parameters.
      pooled: [M, n + 1, D] of the test images, from `linear_features.pool_outputs`.
      labels: [M] of the test images.
    """
    # Every process scores on one device of its own: far less work than one training step.
    parameters = jax.tree.map(lambda x: jax.device_put(np.asarray(x)), state.parameters)
    slices = [slice(start, start + TEST_TILE) for start in range(0, len(labels), TEST_TILE)]
    tiles = [_ranks(parameters, pooled[tile], labels[tile], heads=heads) for tile in slices]
    return {
        Head(group, rate): top_accuracy(np.concatenate([tile[group][number] for tile in tiles]))
        for group in heads.groups
        for number, rate in enumerate(heads.learning_rates)
    }


@partial(jax.jit, static_argnames="heads")
def _ranks(
    parameters: Any, pooled: jax.Array, labels: jax.Array, *, heads: Heads
) -> dict[Group, jax.Array]:
    """[L, B] rank of the right class for every classifier."""
    inputs = heads.inputs(unpool_outputs(pooled))
    return {
        group: rank_of(logits_of(parameters[group], inputs[group]), labels)
        for group in heads.groups
    }


def _optimizer() -> optax.GradientTransformation:
    """torch's SGD: the learning rate is outside the momentum."""
    return optax.trace(decay=MOMENTUM)
