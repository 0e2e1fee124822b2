"""Shared parts of BYOL and MoCo v3: the student predicts how a teacher projects another view.

Projections and predictions of every view are a batch of their own, for BatchNorm, too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from dino_jax.config.section import option
from dino_jax.objectives.base import Context, Needs, Outputs, check_head
from dino_jax.objectives.sphere import alignment, to_sphere, uniformity


@dataclass(frozen=True)
class PredictionConfig:
    """Options of both objectives."""

    kind: str = option("", "of the objective")
    weight: float = option(1.0, "of this loss in the sum", at_least=0, at_most=1e6)
    projector: str = option("projector", "head of both networks")
    predictor: str = option("predictor", "head that takes the projector; only the learner's")
    targets: str = option("teacher", "role that gives the targets")


@dataclass(frozen=True)
class Prediction:
    """Heads and networks of both objectives.

    Attributes:
      projector: name of the head of both networks.
      predictor: name of the head that takes its output.
      learner: role that learns.
      targets: role that gives the targets; its views are the first of the learner's.
      floor: length by which shorter vectors are divided.
    """

    projector: str = "projector"
    predictor: str = "predictor"
    learner: str = "student"
    targets: str = "teacher"
    floor: float = 1e-12

    def needs(self, *, whole_batch: bool) -> Needs:
        """The requirements of an objective with these parts."""
        return Needs(
            roles=(self.learner, self.targets),
            heads=(self.projector,),
            views=2,
            aligned_views=True,
            whole_batch=whole_batch,
            views_apart=True,
        )

    def __call__(
        self, branches: Mapping[str, Outputs]
    ) -> tuple[list[jax.Array], list[jax.Array], dict[str, jax.Array]]:
        """Predictions and targets, all [B, D] float32 of length 1, without gradient to the targets.

        Returns:
          A prediction of each of the learner's views, a target of each of the other's views, and
          numbers for the log about the learner's projections: "alignment" of the first two views,
          "uniformity" of the first.
        """
        learner, teacher = branches[self.learner], branches[self.targets]
        projected = [learner.project(self.projector, view["cls"]) for view in learner.features]
        predictions = [self._unit(learner.project(self.predictor, x)) for x in projected]
        targets = [
            jax.lax.stop_gradient(self._unit(teacher.project(self.projector, view["cls"])))
            for view in teacher.features
        ]
        first, second = (self._unit(x) for x in projected[:2])
        measures = {"alignment": alignment(first, second), "uniformity": uniformity(first)}
        return predictions, targets, measures

    def _unit(self, x: jax.Array) -> jax.Array:
        return to_sphere(x, self.floor)


def build_prediction(
    where: str, config: PredictionConfig, context: Context, floor: float
) -> Prediction:
    """Builds the shared parts.

    Raises:
      ValueError: if a head is unknown, or the predictor does not map the projector's output to as
        many numbers.
    """
    check_head(f"{where}.projector", config.projector, context)
    name, outputs = config.predictor, context.outputs
    if context.inputs.get(name) != config.projector:
        takes = f"takes {context.inputs[name]!r}" if name in outputs else "does not exist"
        raise ValueError(
            f"{where}.predictor is {name!r}, which {takes}; it must be a head with "
            f"--config.network.heads.{name}.of={config.projector}; config.network.heads has "
            f"{sorted(outputs)}"
        )
    if outputs[name] != outputs[config.projector]:
        raise ValueError(
            f"{where} compares the {outputs[name]} outputs of {name} with the "
            f"{outputs[config.projector]} of {config.projector}; set "
            f"--config.network.heads.{name}.out_dim={outputs[config.projector]}"
        )
    return Prediction(config.projector, name, context.learner, config.targets, floor)


def sum_over_views(
    compare: Callable[[jax.Array, jax.Array], jax.Array],
    predictions: list[jax.Array],
    targets: list[jax.Array],
) -> jax.Array:
    """Twice the mean of a comparison over pairs of different views.

    With two views that is the sum of both directions, as in the official codes.

    Args:
      compare: (prediction, target) -> scalar.
      predictions: of the learner's views.
      targets: of the teacher's views, the first of the learner's.
    """
    compared = [
        compare(q, k) for i, q in enumerate(predictions) for j, k in enumerate(targets) if i != j
    ]
    return 2 * jnp.mean(jnp.stack(compared), axis=0)
