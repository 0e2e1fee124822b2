"""Multinomial logistic regression with an L2 penalty, by L-BFGS on all devices."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dino_jax.devices.sharding import put_everywhere, replicated
from dino_jax.evaluation.accuracy import TopAccuracy, rank_of, top_accuracy

TILE = 8192  # rows of each device whose logits are in memory at once
# Bound on the largest entry of the mean loss's gradient, for features of mean square 1. In float32
# the gradient is not known much better.
TOLERANCE = 1e-6

Parameters = dict[str, jax.Array]


class Classifier(NamedTuple):
    """logits = features @ weights + bias; weights [D, C], bias [C], float32."""

    weights: np.ndarray
    bias: np.ndarray

    def accuracy(self, features: np.ndarray, labels: np.ndarray) -> TopAccuracy:
        """Accuracy on [N, D] features with [N] labels."""
        ranks = [
            _ranks(*self, features[start : start + TILE], labels[start : start + TILE])
            for start in range(0, len(labels), TILE)
        ]
        return top_accuracy(np.concatenate(ranks))


class Data(NamedTuple):
    """Training rows, split over the devices: [tiles, rows, D] features of mean 0 and mean square 1.

    Attributes:
      features: (x - mean) / scale, zeros where there is padding.
      labels: [tiles, rows], -1 where there is padding.
      mean: [D] float32.
      scale: common scale of all features.
    """

    features: jax.Array
    labels: jax.Array
    mean: np.ndarray
    scale: float


class LogisticRegression:
    """The problem for one set of images and any strength of the penalty.

    Minimizes C * (sum of the cross-entropies) + 0.5 * |weights|^2, as scikit-learn and cuML do; the
    bias is not penalized. Internally, features are centered and have one common scale, which leaves
    the minimum in place but makes it much easier to find.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, classes: int, mesh: Mesh):
        """Puts the images on the devices.

        Args:
          features: [N, D] float32, the same on all processes.
          labels: [N] in [0, classes).
          classes: number of classes.
          mesh: mesh of the devices.
        """
        self._mesh, self._images = mesh, len(labels)
        self._data = _split(features, labels, mesh)
        zeros = {"weights": (features.shape[1], classes), "bias": (classes,)}
        self._parameters: Parameters = {
            name: put_everywhere(np.zeros(shape, np.float32), mesh) for name, shape in zeros.items()
        }

    def fit(self, C: float, max_iterations: int) -> Classifier:
        """Finds the classifier; starts from the previous one.

        Args:
          C: inverse strength of the penalty, > 0.
          max_iterations: largest number of L-BFGS iterations.
        """
        data = self._data
        # In terms of the mean loss and the scaled features.
        penalty = 1.0 / (C * self._images * data.scale**2)
        self._parameters = _minimize(
            self._parameters,
            data.features,
            data.labels,
            np.float32(penalty),
            images=self._images,
            mesh=self._mesh,
            max_iterations=max_iterations,
        )
        weights, bias = (np.asarray(self._parameters[name]) for name in ("weights", "bias"))
        weights = weights / np.float32(data.scale)
        return Classifier(weights, bias - data.mean @ weights)


def _split(features: np.ndarray, labels: np.ndarray, mesh: Mesh) -> Data:
    tile = min(TILE, math.ceil(len(labels) / mesh.size)) * mesh.size
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    centered = features - mean
    scale = float(np.sqrt(np.mean(centered**2, dtype=np.float64))) or 1.0
    padding = -len(labels) % tile
    rows = np.pad(centered / np.float32(scale), ((0, padding), (0, 0)))
    marks = np.pad(labels.astype(np.int32), (0, padding), constant_values=-1)
    sharding = NamedSharding(mesh, PartitionSpec(None, mesh.axis_names))

    def place(array: np.ndarray) -> jax.Array:
        tiles = array.reshape(-1, tile, *array.shape[1:])
        return jax.make_array_from_callback(tiles.shape, sharding, lambda index: tiles[index])

    return Data(place(rows), place(marks), mean, scale)


@partial(jax.jit, static_argnames=("images", "mesh", "max_iterations"))
def _minimize(
    start: Parameters,
    features: jax.Array,
    labels: jax.Array,
    penalty: jax.Array,
    *,
    images: int,
    mesh: Mesh,
    max_iterations: int,
) -> Parameters:
    """L-BFGS until the gradient is small, nothing changes any more, or `max_iterations`."""

    def objective(parameters: Parameters) -> jax.Array:
        loss = _mean_loss(parameters, features, labels, images)
        return loss + 0.5 * penalty * jnp.sum(parameters["weights"] ** 2)

    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(objective)

    def step(carry: Any) -> Any:
        parameters, state, count, _ = carry
        value, gradient = value_and_grad(parameters, state=state)
        updates, state = solver.update(
            gradient, state, parameters, value=value, grad=gradient, value_fn=objective
        )
        largest = optax.tree.norm(gradient, ord=jnp.inf)
        moved = optax.tree.norm(updates, ord=jnp.inf)
        going_on = (largest > TOLERANCE) & (moved > 0)
        return optax.apply_updates(parameters, updates), state, count + 1, going_on

    def is_going_on(carry: Any) -> jax.Array:
        return carry[3] & (carry[2] < max_iterations)

    first = (start, solver.init(start), jnp.int32(0), jnp.bool_(True))
    found = jax.lax.while_loop(is_going_on, step, first)[0]
    return jax.lax.with_sharding_constraint(found, replicated(mesh))


def _mean_loss(
    parameters: Parameters, features: jax.Array, labels: jax.Array, images: int
) -> jax.Array:
    """Cross-entropy over all rows that are not padding; keeps the logits of one tile at a time."""

    @jax.checkpoint
    def tile_loss(x: jax.Array, y: jax.Array) -> jax.Array:
        logits = jnp.matmul(x, parameters["weights"], precision="highest") + parameters["bias"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(y, 0))
        return jnp.sum(jnp.where(y >= 0, losses, 0.0))

    def add(total: jax.Array, tile: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + tile_loss(*tile), None

    return jax.lax.scan(add, jnp.float32(0), (features, labels))[0] / images


@jax.jit
def _ranks(weights: jax.Array, bias: jax.Array, x: jax.Array, labels: jax.Array) -> jax.Array:
    return rank_of(jnp.matmul(x, weights, precision="highest") + bias, labels)
