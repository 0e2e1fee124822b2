"""One step of self-distillation: a pure function of state and batch."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from dino_jax.models.network import Network
from dino_jax.objectives.base import Branch, Objective
from dino_jax.photometric import apply_photometric
from dino_jax.schedules import Schedule
from dino_jax.train_state import TrainState, Variables

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def global_views(batch: Batch) -> list[jax.Array]:
    """What the teacher sees: one [B, V, H, W, C] array per crop size."""
    return [batch["global_crops"]]


def all_views(batch: Batch) -> list[jax.Array]:
    """What the student sees: global crops first."""
    return [batch[name] for name in ("global_crops", "local_crops") if name in batch]


def forward(
    network: Network, variables: Variables, crops: list[jax.Array], rngs: dict[str, jax.Array]
) -> tuple[Branch, Callable[[], Variables]]:
    """Runs the backbone once per crop size.

    Args:
      network: the module.
      variables: of this branch.
      crops: arrays [B, V, H, W, C], one per crop size; views of an image stay together, so that
        merging them with the sharded batch axis needs no communication.
      rngs: {"drop_path": key} for stochastic depth, {} without.

    Returns:
      The branch for the objectives, and a function that gives the statistics ({} or
      {"batch_stats": …}) once they have projected everything.
    """
    bound = network.bind(variables, rngs=rngs, mutable=["batch_stats"])
    views = []
    for group in crops:
        batch, count = group.shape[:2]
        features = bound(group.reshape(batch * count, *group.shape[2:]))
        views += [
            {name: x.reshape(batch, count, *x.shape[1:])[:, view] for name, x in features.items()}
            for view in range(count)
        ]

    def statistics() -> Variables:
        return {name: tree for name, tree in bound.variables.items() if name != "params"}

    return Branch(tuple(views), bound.project), statistics


def make_train_step(
    network: Network,
    objectives: Mapping[str, Objective],
    optimizer: optax.GradientTransformationExtraArgs,
    momentum: Schedule,
    accumulate_steps: int = 1,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Builds `train_step(state, batch) -> (state, metrics)`, which the caller jits.

    Args:
      network: of both branches.
      objectives: by name; their weighted losses are summed.
      optimizer: of the student's params; its `update` takes the step as an extra argument.
      momentum: schedule of the teacher's EMA.
      accumulate_steps: passes that one update is split into, to save memory; must divide the batch.

    A batch is {"global_crops": [B, G, H, W, C], "local_crops": [B, L, h, w, C]}, uint8 or
    normalised floats; the local crops may be missing, and photometric parameters of the device back
    end may come along. A step whose loss or gradient is not finite
    leaves everything but the clock and the counts as it was.
    """

    def loss_and_grads(state: TrainState, batch: Batch, rng: jax.Array):
        batch = apply_photometric(batch)

        def loss_fn(params):
            # The teacher has no stochastic depth; its BatchNorm uses batch statistics all the same.
            teacher, teacher_statistics = forward(network, state.teacher, global_views(batch), {})
            variables = {**state.student, "params": params}
            student, statistics = forward(network, variables, all_views(batch), {"drop_path": rng})
            outcomes = {
                name: objective(student, teacher, batch, state.objectives[name], state.step)
                for name, objective in objectives.items()
            }
            total = sum(objectives[name].weight * out.loss for name, out in outcomes.items())
            moved = {
                "student": statistics(),
                "teacher": teacher_statistics(),
                "objectives": {name: out.state for name, out in outcomes.items()},
            }
            metrics = {
                f"{name}/{key}": value
                for name, out in outcomes.items()
                for key, value in out.metrics.items()
            }
            return total, (moved, {"loss": total, **metrics})

        grads, (moved, metrics) = jax.grad(loss_fn, has_aux=True)(state.student["params"])
        return grads, moved, metrics

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(state.rng, state.step)
        grads, moved, metrics = average_over_parts(
            lambda part, index: loss_and_grads(state, part, jax.random.fold_in(rng, index)),
            batch,
            accumulate_steps,
        )
        params = state.student["params"]
        updates, opt_state = optimizer.update(grads, state.opt_state, params, step=state.step)
        params = optax.apply_updates(params, updates)
        teacher_momentum = momentum(state.step)
        teacher_params = optax.incremental_update(
            params, state.teacher["params"], 1.0 - teacher_momentum
        )
        moved_state = state.replace(
            student={"params": params, **moved["student"]},
            teacher={"params": teacher_params, **moved["teacher"]},
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
        metrics |= {"grad_norm": grad_norm, "teacher_momentum": teacher_momentum}
        metrics |= {"skipped_steps": skipped["total"], "skipped_in_a_row": skipped["in_a_row"]}
        return kept.replace(step=state.step + 1, skipped=skipped), metrics

    return train_step


def average_over_parts(compute, batch: Batch, parts: int):
    """Mean of `compute(part, index)` over `parts` equal parts of a batch, one after the other.

    Losses, gradients and all objective states are means over images or linear in them, so the
    result is that of the whole batch (up to BatchNorm, whose statistics are those of a part). Rows
    are dealt out in turn: the batch axis stays sharded as it is.
    """
    if parts == 1:
        return compute(batch, 0)
    dealt = jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0), batch
    )

    def add(total, inputs):
        index, part = inputs
        return jax.tree.map(lambda a, b: a + b / parts, total, compute(part, index)), None

    first = jax.eval_shape(compute, jax.tree.map(lambda x: x[0], dealt), 0)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)
    total, _ = jax.lax.scan(add, zeros, (jnp.arange(parts), dealt))
    return total
