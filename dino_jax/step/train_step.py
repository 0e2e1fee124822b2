"""One step of self-distillation: a pure function of state and batch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dino_jax.models.crops import Crops
from dino_jax.models.network import Network
from dino_jax.objectives.base import Branch, Objective
from dino_jax.optim.schedules import Schedule
from dino_jax.step.health import describe_branches, describe_norms, measure_moments
from dino_jax.step.photometric import apply_photometric
from dino_jax.step.placement import gather_weights
from dino_jax.step.train_state import TrainState, Variables

Batch = dict[str, jax.Array]
Metrics = dict[str, Any]
MOMENTS = "cls_moments"  # in the metrics: arrays, of which the host makes numbers when it logs


class Views(NamedTuple):
    """Crops of one size, and what the backbone is told about them.

    Attributes:
      images: [B, V, H, W, C]; views of an image stay together, so that merging them with the
        sharded batch axis needs no communication.
      masks: bool [B, V, N], patches that the mask token replaces, if any.
    """

    images: jax.Array
    masks: jax.Array | None = None

    def merged(self) -> Crops:
        """All crops of all images: [B * V, H, W, C]."""
        batch, count = self.images.shape[:2]
        images = self.images.reshape(batch * count, *self.images.shape[2:])
        masks = None if self.masks is None else self.masks.reshape(batch * count, -1)
        return Crops(images, masks)


def global_views(batch: Batch) -> list[Views]:
    """What the teacher sees: the global crops, nothing masked."""
    return [Views(batch["global_crops"])]


def all_views(batch: Batch, hide: bool = True) -> list[Views]:
    """What the student sees: the global crops, masked if the batch says so, and the local ones.

    Args:
      batch: see `make_train_step`.
      hide: whether masks, if there are any, hide patches.
    """
    masks = batch.get("masks") if hide else None
    views = [Views(batch["global_crops"], masks)]
    if "local_crops" in batch:
        views.append(Views(batch["local_crops"]))
    return views


def forward(
    network: Network,
    variables: Variables,
    groups: list[Views],
    rngs: dict[str, jax.Array],
    mutable: Sequence[str] = ("batch_stats",),
) -> tuple[Branch, Callable[[], Variables]]:
    """Runs the backbone once over the crops of all sizes.

    Args:
      network: the module.
      variables: of this branch.
      groups: one per crop size.
      rngs: {"drop_path": key} for stochastic depth, {} without.
      mutable: with "batch_stats" BatchNorm uses and tracks the statistics of the batch, with () it
        uses those of `variables`.

    Returns:
      The branch for the objectives, and a function that gives the statistics ({} or
      {"batch_stats": …}) once they have projected everything.
    """
    variables = gather_weights(network, variables)
    bound = network.bind(variables, rngs=rngs, mutable=list(mutable))
    features = bound.encode_groups([group.merged() for group in groups])
    views = [
        {
            name: x.reshape(*group.images.shape[:2], *x.shape[1:])[:, view]
            for name, x in of_group.items()
        }
        for group, of_group in zip(groups, features, strict=True)
        for view in range(group.images.shape[1])
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
    is_logged: Callable[[jax.Array], Any] = lambda step: True,
    frozen_teacher: Network | None = None,
    hide_masked: bool = True,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Builds `train_step(state, batch, frozen=None) -> (state, metrics)`, which the caller jits.

    Args:
      network: of both branches.
      objectives: by name; their weighted losses are summed.
      optimizer: of the student's params; its `update` takes the step as an extra argument.
      momentum: schedule of the teacher's EMA.
      accumulate_steps: passes that one update is split into, to save memory; must divide the batch.
      is_logged: whether the norms of finished update `step` are asked for; they are nan otherwise,
        because each costs a pass over all parameters.
      frozen_teacher: of a distillation: its variables are the step's argument `frozen`, it gives
        the targets, and the teacher of the state is nothing but the EMA of the student.
      hide_masked: whether the student does not see the patches of "masks"; else they only say
        which patches iBOT compares.

    A batch is {"global_crops": [B, G, H, W, C], "local_crops": [B, L, h, w, C]}, uint8 or
    normalised floats, and whatever else the objectives ask for; the local crops may be missing.
    "masks" are patches of the global crops; photometric parameters of the device
    back end are applied first. Arrays with fewer than B rows have one per group of images.

    A step whose loss or gradient is not finite leaves everything but the clock and the counts as it
    was.
    """

    def loss_and_grads(state: TrainState, frozen: Variables | None, batch: Batch, rng: jax.Array):
        batch = apply_photometric(batch)

        def loss_fn(params):
            variables = {**state.student, "params": params}
            views = all_views(batch, hide_masked)
            student, statistics = forward(network, variables, views, {"drop_path": rng})
            if frozen_teacher is None:
                # No stochastic depth; its BatchNorm uses batch statistics all the same.
                teacher, teacher_statistics = forward(
                    network, state.teacher, global_views(batch), {}
                )
            else:
                teacher, _ = forward(
                    frozen_teacher, frozen or {}, global_views(batch), {}, mutable=()
                )
                teacher_statistics = statistics  # the EMA makes no pass of its own
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
            metrics: Metrics = {
                f"{name}/{key}": value
                for name, out in outcomes.items()
                for key, value in out.metrics.items()
            }
            metrics |= {"loss": total}
            if frozen_teacher is None:
                metrics |= {MOMENTS: measure_moments(teacher)} | describe_branches(student, teacher)
            else:  # whose features never change and have other dimensions
                metrics |= {MOMENTS: measure_moments(student.first_views(len(teacher.features)))}
            return total, (moved, metrics)

        grads, (moved, metrics) = jax.grad(loss_fn, has_aux=True)(state.student["params"])
        return grads, moved, metrics

    def train_step(
        state: TrainState, batch: Batch, frozen: Variables | None = None
    ) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(state.rng, state.step)
        grads, moved, metrics = average_over_parts(
            lambda part, index: loss_and_grads(state, frozen, part, jax.random.fold_in(rng, index)),
            batch,
            accumulate_steps,
        )
        params = state.student["params"]

        def measure_norms() -> Metrics:
            updates, _ = optimizer.update(grads, state.opt_state, params, step=state.step)
            trees = {"grad": grads, "update": updates, "param": params}
            return describe_norms(trees)

        norms = jax.lax.cond(is_logged(state.step + 1), measure_norms, nans_like(measure_norms))
        # The old state is read before the update takes its place, so that nothing is copied.
        grads, norms = jax.lax.optimization_barrier((grads, norms))
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
        metrics |= norms
        return kept.replace(step=state.step + 1, skipped=skipped), metrics

    return train_step


def nans_like(compute: Callable[[], Metrics]) -> Callable[[], Metrics]:
    """What gives nan in place of the numbers of `compute`, without computing them."""
    return lambda: jax.tree.map(
        lambda x: jnp.full(x.shape, jnp.nan, x.dtype), jax.eval_shape(compute)
    )


def average_over_parts(compute, batch: Batch, parts: int):
    """Mean of `compute(part, index)` over `parts` equal parts of a batch, one after the other.

    Losses, gradients and all objective states are means over images or linear in them, so the
    result is that of the whole batch, up to what looks at several images at once: BatchNorm,
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
