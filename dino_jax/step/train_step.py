"""One step of self-supervised learning: a pure function of state and batch."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dino_jax.objectives.base import Objective, Outputs
from dino_jax.step.canvas import cut_crops
from dino_jax.step.forward import forward
from dino_jax.step.health import describe_norms
from dino_jax.step.needs import keeps_views_apart
from dino_jax.step.photometric import apply_photometric
from dino_jax.step.roles import Role, Variables, describe_follow, find_learner, follow_learner
from dino_jax.step.train_state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, Any]
Measure = Callable[[Mapping[str, Outputs]], Metrics]


def make_train_step(
    roles: Mapping[str, Role],
    objectives: Mapping[str, Objective],
    optimizer: optax.GradientTransformationExtraArgs,
    measures: Sequence[Measure] = (),
    accumulate_steps: int = 1,
    is_logged: Callable[[jax.Array], Any] = lambda step: True,
    crop_sizes: Mapping[str, tuple[int, int]] = MappingProxyType({}),
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Builds `train_step(state, batch, frozen=None, looked={}) -> (state, metrics)`, to be jitted.

    Args:
      roles: networks by name. The variables of the frozen ones are passed to the step as `frozen`,
        a dict by name.
      objectives: objectives by name; their weighted losses are summed.
      optimizer: optimizer of the learner's params; its `update` takes the step as an extra
        argument.
      measures: further measures of the networks' outputs.
      accumulate_steps: passes that one update is split into, to save memory; must divide the batch.
      is_logged: whether the norms of finished update `step` are wanted; they are nan otherwise,
        because each costs a pass over all parameters.
      crop_sizes: (height, width) of the crops by group, for batches of the canvas back end.

    A batch has "GROUP_crops" [B, V, H, W, C] by group of crops ("global", "local", …), uint8 or
    normalized floats, and the other entries that the objectives need; a group that a role sees may
    be missing. "masks" are patches of the global crops. What the back end of the augmentation
    leaves to the devices, see `dino_jax.data.back_ends`, comes first. Arrays with fewer than B rows
    have one per group of images.

    `looked` are outputs of frozen roles that are there already, see `dino_jax.step.students`; not
    with several passes.

    A step whose loss or gradient is not finite leaves everything but the clock and the counts
    unchanged.
    """
    learner = find_learner(roles)
    compute_loss = make_loss(roles, objectives, measures)

    def train_step(
        state: TrainState,
        batch: Batch,
        frozen: Mapping[str, Variables] | None = None,
        looked: Mapping[str, Outputs] = MappingProxyType({}),
    ) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(state.rng, state.step)
        params = state.networks[learner]["params"]

        def compute_grads(part: Batch, index: Any):
            key = jax.random.fold_in(rng, index)
            loss = jax.grad(compute_loss, has_aux=True)
            views = apply_photometric(cut_crops(part, crop_sizes))
            return loss(params, state, frozen or {}, views, key, looked)

        grads, (moved, metrics) = average_over_parts(compute_grads, batch, accumulate_steps)

        def measure_norms() -> Metrics:
            updates, _ = optimizer.update(grads, state.opt_state, params, step=state.step)
            return describe_norms({"grad": grads, "update": updates, "param": params})

        norms = jax.lax.cond(is_logged(state.step + 1), measure_norms, nans_like(measure_norms))
        # The old state is read before the update replaces it, so that nothing is copied.
        grads, norms = jax.lax.optimization_barrier((grads, norms))
        updates, opt_state = optimizer.update(grads, state.opt_state, params, step=state.step)
        new: Any = optax.apply_updates(params, updates)
        moved_state = state.replace(
            networks=follow_learner(roles, state.networks, new, moved["statistics"], state.step),
            opt_state=opt_state,
            objectives=moved["objectives"],
        )
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(grad_norm)
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved_state, state)
        skipped = {
            "total": state.skipped["total"] + ~finite,
            "in_a_row": jnp.where(finite, 0, state.skipped["in_a_row"] + 1),
        }
        metrics |= {"grad_norm": grad_norm, **describe_follow(roles, state.step), **norms}
        metrics |= {"skipped_steps": skipped["total"], "skipped_in_a_row": skipped["in_a_row"]}
        return kept.replace(step=state.step + 1, skipped=skipped), metrics

    return train_step


def make_loss(
    roles: Mapping[str, Role],
    objectives: Mapping[str, Objective],
    measures: Sequence[Measure],
) -> Callable[..., tuple[jax.Array, tuple[dict[str, Any], Metrics]]]:
    """Builds `loss(params, state, frozen, batch, rng, looked={}) -> (loss, (moved, metrics))`.

    `params` are the learner's. `moved` has the next states of the objectives as "objectives", and
    BatchNorm's by role as "statistics"; all are means over the images of the batch.
    """
    learner = find_learner(roles)
    apart = keeps_views_apart(objectives)

    def compute_loss(
        params: Variables,
        state: TrainState,
        frozen: Mapping[str, Variables],
        batch: Batch,
        rng: jax.Array,
        looked: Mapping[str, Outputs] = MappingProxyType({}),
    ):
        variables = {**frozen, **state.networks}
        variables[learner] = {**variables[learner], "params": params}
        passes = {
            name: forward(role, variables[name], batch, rng, apart)
            for name, role in roles.items()
            if role.sees and name not in looked
        }
        branches = {**looked, **{name: outputs for name, (outputs, _) in passes.items()}}
        outcomes = {
            name: objective(branches, batch, state.objectives[name], state.step)
            for name, objective in objectives.items()
        }
        total: Any = sum(
            objectives[name].weight(state.step) * x.loss for name, x in outcomes.items()
        )
        moved = {
            "statistics": {
                name: statistics()
                for name, (_, statistics) in passes.items()
                if roles[name].follow.by_batch
            },
            "objectives": {name: outcome.state for name, outcome in outcomes.items()},
        }
        metrics: Metrics = {
            f"{name}/{key}": value
            for name, outcome in outcomes.items()
            for key, value in outcome.metrics.items()
        }
        for measure in measures:
            metrics |= measure(branches)
        return total, (moved, metrics | {"loss": total})

    return compute_loss


def nans_like(compute: Callable[[], Metrics]) -> Callable[[], Metrics]:
    """A function that returns nan instead of the numbers of `compute`, without computing them."""
    return lambda: jax.tree.map(
        lambda x: jnp.full(x.shape, jnp.nan, x.dtype), jax.eval_shape(compute)
    )


def average_over_parts(compute, batch: Batch, parts: int):
    """Mean of `compute(part, index)` over `parts` equal parts of a batch, one after another.

    Losses, gradients and all objective states are means over images or linear in them, so the
    result is that of the whole batch, except for operations on several images at once: BatchNorm,
    Sinkhorn-Knopp and KoLeo see the images of a part. Groups of images (single ones, unless an
    array has one row per group) are dealt out in turn: the batch axis stays sharded as it is.
    """
    if parts == 1:
        return compute(batch, 0)
    groups = min(x.shape[0] for x in batch.values())

    def deal(x: jax.Array) -> jax.Array:
        rows = x.shape[0] // groups
        hands = x.reshape(groups // parts, parts, rows, *x.shape[1:])
        return jnp.moveaxis(hands, 1, 0).reshape(parts, -1, *x.shape[1:])

    dealt = {name: deal(x) for name, x in batch.items()}

    def add(total, inputs):
        index, part = inputs
        return jax.tree.map(lambda a, b: a + b / parts, total, compute(part, index)), None

    first = jax.eval_shape(compute, jax.tree.map(lambda x: x[0], dealt), 0)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)
    total, _ = jax.lax.scan(add, zeros, (jnp.arange(parts), dealt))
    return total
