"""The candidate of `--what=adapter`: a linear layer on stored vectors, as ILIAS tunes it.

(arXiv:2502.11748: bias, Xavier-uniform weight, output of length 1; Adam 1e-3 with a decay of 1e-6
that is added to the gradient.)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from dino_jax.devices.sharding import batch_sharding, put_everywhere, shard_batch
from dino_jax.embedding.adapter import Adapter
from dino_jax.models.class_head import ClassHead
from dino_jax.objectives.arcface import CLASSES
from dino_jax.objectives.base import Objective, Outputs
from dino_jax.objectives.of_pairs import LABELS
from dino_jax.objectives.pairs import to_unit
from dino_jax.tuning.candidate import STUDENT

Params = dict[str, Any]


class Recipe(NamedTuple):
    """How it learns.

    Attributes:
      rate: of Adam.
      decay: added to the gradient.
    """

    rate: float = 1e-3
    decay: float = 1e-6

    def optimizer(self) -> optax.GradientTransformation:
        """Adam as torch has it, with the decay in the gradient."""
        return optax.chain(optax.add_decayed_weights(self.decay), optax.adam(self.rate))


def init_params(width: int, dim: int | None, vectors: int, seed: int) -> Params:
    """The first adapter, {"weight": [d, D], "bias": [d]}, and class vectors if there are any.

    Args:
      width: D.
      dim: d, drawn at random (Xavier); None: D, and the identity, so that the first adapter gives
        the frozen features.
      vectors: number of class vectors; 0: none.
      seed: of the draws.
    """
    first, second = jax.random.split(jax.random.key(seed))
    if dim is None:
        weight = jnp.eye(width)
    else:
        weight = jax.nn.initializers.glorot_uniform()(first, (dim, width))
    params: Params = {"weight": weight, "bias": jnp.zeros(len(weight))}
    if vectors:
        head = ClassHead(vectors)
        params[CLASSES] = head.init(second, jnp.zeros((1, len(weight))))["params"]
    return params


def compute_loss(
    params: Params, objective: Objective, vectors: jax.Array, labels: jax.Array, step: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of a batch and numbers for the screen.

    Args:
      params: of `init_params`.
      objective: one of `objectives.labelled`.
      vectors: [B, D] of length 1.
      labels: int32 [B].
      step: updates so far.
    """

    def project(name: str, x: Any) -> jax.Array:
        centers = params[name]
        head: Any = ClassHead(len(centers["vectors"]))
        return head.apply({"params": centers}, x)

    layer = jnp.matmul(vectors, params["weight"].T, precision="highest") + params["bias"]
    seen = Outputs(({"cls": to_unit(layer)},), ("global",), project)
    outcome = objective({STUDENT: seen}, {LABELS: labels}, objective.init(), step)
    return outcome.loss, outcome.metrics


class LinearCandidate:
    """A linear layer that learns; see `Candidate`."""

    def __init__(
        self, vectors: np.ndarray, params: Params, objective: Objective, recipe: Recipe, mesh: Mesh
    ):
        """Puts the first values on all devices.

        Args:
          vectors: [N, D] float32 of length 1 of all photographs.
          params: of `init_params`.
          objective: what is learned.
          recipe: how.
          mesh: all devices, which share the batch; the similarities are those of all of it.
        """
        self._vectors, self._mesh = vectors, mesh
        optimizer = recipe.optimizer()
        spread = jax.tree.map(lambda x: put_everywhere(np.asarray(x), mesh), params)
        self._params, self._state = spread, jax.jit(optimizer.init)(spread)

        @jax.jit
        def update(params: Params, state: Any, batch: dict[str, jax.Array], step: jax.Array):
            def loss(params: Params):
                return compute_loss(params, objective, batch["vectors"], batch[LABELS], step)

            grads, metrics = jax.grad(loss, has_aux=True)(params)
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state, metrics

        self._update = update

    def step(self, step: int, photos: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        own = local_rows(len(photos))
        batch = shard_batch(
            {"vectors": self._vectors[photos[own]], LABELS: labels[own]},
            batch_sharding(self._mesh),
        )
        self._params, self._state, metrics = self._update(
            self._params, self._state, batch, jnp.int32(step)
        )
        return {name: float(x) for name, x in metrics.items()}

    def vectors(self, photos: np.ndarray) -> np.ndarray:
        rows = self.snapshot().rows(self._vectors[photos])
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)

    def snapshot(self) -> Adapter:
        weight, bias = (np.asarray(self._params[name]) for name in ("weight", "bias"))
        return Adapter(weight, bias)


def local_rows(rows: int) -> slice:
    """The rows of a batch that this process brings: the processes share them in order."""
    each = rows // jax.process_count()
    return slice(jax.process_index() * each, (jax.process_index() + 1) * each)
