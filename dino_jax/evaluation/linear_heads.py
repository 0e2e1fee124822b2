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
WEIGHT_STD = 0.01  # of the first weights, in all papers
BN_MOMENTUM, BN_EPSILON = 0.9, 1e-6  # MAE's; torch's momentum is 1 - 0.9
TRUST = 0.001  # of LARS
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
      standardizes: whether a BatchNorm without scale and shift comes first.
      rule: key of `RULES`.
    """

    groups: tuple[Group, ...]
    learning_rates: tuple[float, ...]
    features: LinearFeatures
    classes: int
    standardizes: bool = False
    rule: str = "sgd"

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
      statistics: by group: running mean [D] and variance [D] of the BatchNorm; {} without one.
    """

    parameters: dict[Group, Parameters]
    momentum: Any
    statistics: dict[Group, Parameters]


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
        statistics = {
            group: {
                "mean": jnp.zeros(inputs[group].shape[1]),
                "variance": jnp.ones(inputs[group].shape[1]),
            }
            for group in heads.groups * heads.standardizes
        }
        return HeadState(parameters, RULES[heads.rule]().init(parameters), statistics)

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
        inputs, statistics = heads.inputs(outputs), state.statistics
        if heads.standardizes:
            inputs, statistics = _standardize_batch(inputs, statistics)
        gradients = jax.grad(total)(state.parameters, inputs, batch["label"])
        directions, momentum = RULES[heads.rule]().update(
            gradients, state.momentum, state.parameters
        )
        rates = factor * jnp.array(heads.learning_rates, jnp.float32)
        parameters = jax.tree.map(
            lambda x, direction: x - rates.reshape(-1, *[1] * (x.ndim - 1)) * direction,
            state.parameters,
            directions,
        )
        return HeadState(parameters, momentum, statistics), batch["unreadable"]

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
    parameters, statistics = jax.tree.map(
        lambda x: jax.device_put(np.asarray(x)), (state.parameters, state.statistics)
    )
    slices = [slice(start, start + TEST_TILE) for start in range(0, len(labels), TEST_TILE)]
    tiles = [
        _ranks(parameters, statistics, pooled[tile], labels[tile], heads=heads) for tile in slices
    ]
    return {
        Head(group, rate): top_accuracy(np.concatenate([tile[group][number] for tile in tiles]))
        for group in heads.groups
        for number, rate in enumerate(heads.learning_rates)
    }


@partial(jax.jit, static_argnames="heads")
def _ranks(
    parameters: Any, statistics: Any, pooled: jax.Array, labels: jax.Array, *, heads: Heads
) -> dict[Group, jax.Array]:
    """[L, B] rank of the right class for every classifier."""
    inputs = heads.inputs(unpool_outputs(pooled))
    for group, seen in statistics.items():
        inputs[group] = _standardize(inputs[group], **seen)
    return {
        group: rank_of(logits_of(parameters[group], inputs[group]), labels)
        for group in heads.groups
    }


def _standardize_batch(
    inputs: dict[Group, jax.Array], statistics: dict[Group, Parameters]
) -> tuple[dict[Group, jax.Array], dict[Group, Parameters]]:
    """BatchNorm in training: by the statistics of the whole batch, which are tracked."""
    standardized, tracked = {}, {}
    for group, x in inputs.items():
        mean, variance = jnp.mean(x, axis=0), jnp.var(x, axis=0)
        standardized[group] = _standardize(x, mean, variance)
        seen = {"mean": mean, "variance": variance * len(x) / max(len(x) - 1, 1)}
        tracked[group] = {
            name: BN_MOMENTUM * statistics[group][name] + (1 - BN_MOMENTUM) * value
            for name, value in seen.items()
        }
    return standardized, tracked


def _standardize(x: jax.Array, mean: jax.Array, variance: jax.Array) -> jax.Array:
    return (x - mean) * jax.lax.rsqrt(variance + BN_EPSILON)


def _scale_by_trust() -> optax.GradientTransformation:
    """LARS (arXiv:1708.03888) for each classifier's weights by themselves; biases as they are."""

    def norms(x: jax.Array) -> jax.Array:
        return jnp.linalg.norm(x, axis=(1, 2), keepdims=True)

    def scale(update: jax.Array, weights: jax.Array) -> jax.Array:
        if weights.ndim < 3:
            return update
        own, moved = norms(weights), norms(update)
        both = (own > 0) & (moved > 0)
        return update * jnp.where(both, TRUST * own / jnp.where(both, moved, 1.0), 1.0)

    return optax.stateless(lambda updates, params: jax.tree.map(scale, updates, params))


# Rules of update; the learning rate is outside the momentum, as in torch's SGD and MAE's LARS.
RULES: dict[str, Callable[[], optax.GradientTransformation]] = {
    "sgd": lambda: optax.trace(decay=MOMENTUM),
    "lars": lambda: optax.chain(_scale_by_trust(), optax.trace(decay=MOMENTUM)),
}
