"""Several students of one frozen teacher in one step: the teacher looks at a batch once.

DINOv3 (arXiv:2508.10104, Section 5.2) distills models of several sizes at once. Each student has a
recipe and a state of its own, as in a run by itself; they share the batch, its masks and the
backbone's pass of the teacher, whose heads every objective calls on its own.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from dino_jax.objectives.base import Outputs
from dino_jax.step.canvas import cut_crops
from dino_jax.step.forward import forward
from dino_jax.step.photometric import apply_photometric
from dino_jax.step.recipe import Recipe
from dino_jax.step.roles import Frozen, Role, Variables
from dino_jax.step.train_state import TrainState
from dino_jax.step.train_step import Batch, Metrics

States = dict[str, TrainState]
JointStep = Callable[
    [Mapping[str, TrainState], Batch, Mapping[str, Variables]], tuple[States, dict[str, Metrics]]
]


def make_students_step(
    recipes: Mapping[str, Recipe], log_every_steps: int = 1, **placement: Any
) -> JointStep:
    """Builds `step(states, batch, frozen) -> (states, metrics)` by student, which the caller jits.

    Args:
      recipes: recipes by student. Their frozen roles are the same, and so are crops and masks.
      log_every_steps: see `Recipe.make_step`.
      **placement: mesh and gradient_dtype, see `Recipe.make_step`.

    Raises:
      ValueError: if students differ in what they share, have no frozen role, or take several passes
        per update.
    """
    teachers = _check_students(recipes)
    steps = {name: each.make_step(log_every_steps, **placement) for name, each in recipes.items()}
    sizes = next(iter(recipes.values())).crop_sizes

    def step(
        states: Mapping[str, TrainState], batch: Batch, frozen: Mapping[str, Variables]
    ) -> tuple[States, dict[str, Metrics]]:
        views = apply_photometric(cut_crops(batch, sizes))
        looked = {name: look(role, frozen[name], views) for name, role in teachers.items()}
        moved = {
            name: train_step(states[name], views, frozen, looked)
            for name, train_step in steps.items()
        }
        return (
            {name: state for name, (state, _) in moved.items()},
            {name: metrics for name, (_, metrics) in moved.items()},
        )

    return step


def look(role: Role, variables: Variables, batch: Batch) -> Outputs:
    """Outputs of a frozen role whose heads can be called inside other transformations of JAX."""
    outputs, _ = forward(role, variables, batch, jax.random.key(0))
    apply: Any = role.network.apply

    def project(head: str, x: Any) -> jax.Array:
        return apply(variables, head, x, method="project")

    return outputs._replace(project=project)


def _check_students(recipes: Mapping[str, Recipe]) -> dict[str, Role]:
    """The frozen roles of all students."""
    if not recipes:
        raise ValueError("there must be at least one student")
    frozen = {
        student: {
            name: role
            for name, role in recipe.roles.items()
            if isinstance(role.follow, Frozen) and role.sees
        }
        for student, recipe in recipes.items()
    }
    first, *others = recipes
    for student, recipe in recipes.items():
        if not frozen[student]:
            raise ValueError(f"the student {student} has no frozen role that sees crops")
        if recipe.accumulate_steps > 1:
            raise ValueError(
                f"the student {student} takes {recipe.accumulate_steps} passes per update; those "
                "of one teacher take one"
            )
    for student in others:
        for what in ("crop_sizes", "views", "masking"):
            ours, theirs = (getattr(recipes[name], what) for name in (first, student))
            if ours != theirs:
                raise ValueError(
                    f"the students {first} and {student} share a batch, but differ in {what}: "
                    f"{ours} and {theirs}"
                )
        if frozen[first] != frozen[student]:
            raise ValueError(
                f"the students {first} and {student} have other frozen roles; give them the same "
                "teacher under the same name"
            )
    return frozen[first]
