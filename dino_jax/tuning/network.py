"""The candidates that learn from photographs: a network of which some parameters move."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from dino_jax.devices.sharding import batch_sharding, make_replicate, put_everywhere, shard_batch
from dino_jax.models.class_head import ClassHead
from dino_jax.objectives.arcface import CLASSES
from dino_jax.objectives.base import Objective
from dino_jax.objectives.of_pairs import LABELS
from dino_jax.step.roles import Learns, Role
from dino_jax.step.train_state import TrainState
from dino_jax.step.train_step import make_loss
from dino_jax.tuning.candidate import STUDENT
from dino_jax.tuning.guard import to_unit
from dino_jax.tuning.linear import Recipe, local_rows
from dino_jax.tuning.looks import Looks
from dino_jax.tuning.moved import Moved
from dino_jax.weights.model import Model

LOSS = "tune"  # name of the objective
HEAD = f"heads_{CLASSES}"  # its parameters, if it has any


class Settings(NamedTuple):
    """What a candidate of photographs needs besides its network.

    Attributes:
      objective: what is learned.
      vectors: class vectors of the objective; 0: none.
      recipe: of the optimizer.
      batch: photographs that are embedded at once.
      seed: of crops and class vectors.
    """

    objective: Objective
    vectors: int
    recipe: Recipe
    batch: int
    seed: int


class NetworkCandidate:
    """A network that learns on the step of training: one role, which sees one crop of each photo.

    Under jit the similarities are those of the batch of all devices. See `Candidate`.
    """

    def __init__(self, model: Model, moved: Moved, looks: Looks, settings: Settings, mesh: Mesh):
        """Puts everything on all devices.

        Args:
          model: the frozen network.
          moved: what of its backbone moves.
          looks: the photographs.
          settings: how it learns.
          mesh: all devices, which share the batch.
        """
        self._looks, self._settings, self._mesh = looks, settings, mesh
        self._spread, self._size = moved.spread, settings.batch
        width = model.network.backbone.embed_dim
        heads, head = {}, ClassHead(settings.vectors)
        first: dict[str, Any] = {"backbone": moved.first}
        factors: dict[str, Any] = {"backbone": moved.factors}
        if settings.vectors:
            heads = {CLASSES: head}
            key = jax.random.fold_in(jax.random.key(settings.seed), 1)
            first[HEAD] = head.init(key, jnp.zeros((1, width)))["params"]
            factors[HEAD] = jax.tree.map(lambda _: np.float32(1), first[HEAD])
        network = model.network.clone(heads=heads)
        whole = jax.tree.map(np.asarray, (first, model.variables["params"]["backbone"]))
        self._params, self._base = jax.tree.map(lambda x: put_everywhere(x, mesh), whole)
        optimizer = optax.chain(
            settings.recipe.optimizer(),
            optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, factors)),
        )
        self._state = jax.jit(optimizer.init)(self._params)
        role = Role(network, Learns(), sees=("global",))
        compute = make_loss({STUDENT: role}, {LOSS: settings.objective}, ())
        objectives = {LOSS: settings.objective.init()}
        key = jax.random.key(settings.seed)

        @jax.jit
        def update(params: Any, base: Any, state: Any, batch: dict[str, jax.Array], step: Any):
            def loss(params: Any):
                whole = {**params, "backbone": moved.spread(params["backbone"], base)}
                now = TrainState(step, {STUDENT: {"params": whole}}, (), objectives, key, {})
                total, (_, metrics) = compute(whole, now, {}, batch, key)
                return total, metrics

            grads, metrics = jax.grad(loss, has_aux=True)(params)
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state, metrics

        @jax.jit
        def embed(params: Any, base: Any, images: jax.Array) -> jax.Array:
            backbone = {"backbone": moved.spread(params, base)}
            features: Any = model.network.apply({"params": backbone}, images)
            return features["cls"].astype(jnp.float32)

        self._update, self._embed, self._whole = update, embed, make_replicate(mesh)

    def step(self, step: int, photos: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        own = local_rows(len(photos))
        crops = self._looks.crops(photos[own], self._settings.seed, step, own.start)
        batch = {"global_crops": crops[:, None], LABELS: labels[own]}
        self._params, self._state, metrics = self._update(
            self._params,
            self._base,
            self._state,
            shard_batch(batch, batch_sharding(self._mesh)),
            jnp.int32(step),
        )
        return {name.removeprefix(f"{LOSS}/"): float(x) for name, x in metrics.items()}

    def vectors(self, photos: np.ndarray) -> np.ndarray:
        found, sharding = [], batch_sharding(self._mesh)
        for views in self._looks.views(photos, self._size):
            own = shard_batch({"images": views[local_rows(len(views))]}, sharding)["images"]
            rows = self._embed(self._params["backbone"], self._base, own)
            found.append(np.asarray(self._whole(rows)))
        return to_unit(np.concatenate(found)[: len(photos)])

    def snapshot(self) -> Any:
        """The parameters of the backbone, plain ones."""
        whole = jax.jit(self._spread)(self._params["backbone"], self._base)
        return jax.tree.map(np.asarray, whole)
