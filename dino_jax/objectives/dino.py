"""DINO (arXiv:2104.14294): cross-entropy of teacher and student over all pairs of views."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from dino_jax.config.section import option
from dino_jax.objectives.base import Context, Needs, Outcome, Outputs
from dino_jax.objectives.centering import Centering, CenteringState, describe_targets
from dino_jax.objectives.distillation import DistillationConfig, build_distillation
from dino_jax.optim.schedules import Constant, Schedule


@dataclass(frozen=True)
class Config(DistillationConfig):
    """A section of `config.objectives` of kind "dino"."""

    kind: str = option("dino", "of the objective")
    min_local_pairs: int = option(
        0,
        "the mean over pairs counts at least this many with a local crop",
        at_least=0,
        at_most=10_000,
    )


def build(where: str, config: Config, context: Context) -> "DinoObjective":
    """Builds the objective.

    Raises:
      ValueError: as in `build_distillation`.
    """
    weights = {"local_weight": lambda: Constant(1.0)}
    shared = build_distillation(where, config, context, weights)
    return DinoObjective(**shared, min_local_pairs=config.min_local_pairs)


def dino_losses(
    student: jax.Array, targets: jax.Array, temperature: float, min_local_pairs: int = 0
) -> tuple[jax.Array, jax.Array]:
    """Mean cross-entropy over all (teacher view, student view) pairs of different views (Eq. 3).

    Targets sum to 1, so the cross-entropy of a pair is logsumexp(s) - <target, s> with s = student
    / temperature: all pairs are one batched product, and no [B, K] array is made per pair.

    Args:
      student: [B, V, K] float32 student logits, global views first.
      targets: [B, G, K] float32 teacher probabilities of the G global views.
      temperature: temperature of the student's softmax, > 0.
      min_local_pairs: the mean counts at least this many pairs with a local view.

    Returns:
      Two scalars whose sum is the mean over the images of the global batch and the pairs, all with
      equal weight: the share of the pairs of global views and that of the pairs with a local view.
    """
    logits = student / temperature
    log_partition = jax.nn.logsumexp(logits, axis=-1)
    agreement = jnp.einsum("bgk,bvk->bgv", targets, logits, precision="highest")
    cross_entropy = jnp.mean(log_partition[:, None, :] - agreement, axis=0)
    teachers, views = cross_entropy.shape
    different = cross_entropy * (1.0 - jnp.eye(teachers, views))
    pairs = count_pairs(teachers, views, min_local_pairs)
    return jnp.sum(different[:, :teachers]) / pairs, jnp.sum(different[:, teachers:]) / pairs


def count_pairs(teachers: int, views: int, min_local_pairs: int = 0) -> int:
    """Pairs of different views that the mean of `dino_losses` counts."""
    return teachers * (teachers - 1) + max(teachers * (views - teachers), min_local_pairs)


@dataclass(frozen=True)
class DinoObjective:
    """The DINO objective; its state is that of its centering.

    Attributes:
      head: name of the projection head.
      prototypes: K of that head.
      student_temperature: temperature of the student's softmax.
      teacher_temperature: schedule of the teacher's temperature.
      centering: how teacher logits become targets.
      weight: schedule of this objective's weight in the total loss.
      learner: role that learns.
      targets: role that gives the targets; its views are the first of the learner's.
      min_local_pairs: see `dino_losses`; 0 in DINO. DINOv2 counts 1 if there are no local crops,
        which makes its loss of two global crops smaller by a third.
      local_weight: schedule of the weight of the pairs with a local crop; their share of all pairs
        stays as it is, as in DINOv3, which lowers it to 0.5 when Gram anchoring begins.
    """

    head: str
    prototypes: int
    student_temperature: float
    teacher_temperature: Schedule
    centering: Centering
    weight: Schedule = Constant(1.0)
    learner: str = "student"
    targets: str = "teacher"
    min_local_pairs: int = 0
    local_weight: Schedule = Constant(1.0)

    @property
    def needs(self) -> Needs:
        """BatchNorm sees all views of a size at once, as in the official code."""
        return Needs(
            roles=(self.learner, self.targets),
            heads=(self.head,),
            views=2,
            aligned_views=True,
            views_apart=False,
        )

    def init(self) -> CenteringState:
        return self.centering.init(self.prototypes)

    def __call__(
        self,
        branches: Mapping[str, Outputs],
        batch: dict[str, jax.Array],
        state: CenteringState,
        step: jax.Array,
    ) -> Outcome:
        """Loss of all views; "global_loss" and "local_loss" are what DINOv2 logs.

        "kl" is KL(teacher || student), the mean over all pairs of cross-entropy minus entropy.
        """
        del batch
        student, teacher = branches[self.learner], branches[self.targets]
        student_logits = student.project(self.head, student.cls_tokens())
        teacher_logits = teacher.project(self.head, teacher.cls_tokens())
        temperature = self.teacher_temperature(step)
        targets, state = self.centering.targets(teacher_logits, state, temperature)
        global_loss, local_loss = dino_losses(
            student_logits, targets, self.student_temperature, self.min_local_pairs
        )
        together, local_weight = global_loss + local_loss, self.local_weight(step)
        loss = global_loss + local_weight * local_loss
        teachers, views = len(teacher.features), len(student.features)
        counted = count_pairs(teachers, views, self.min_local_pairs)
        cross_entropy = together * counted / count_pairs(teachers, views)
        described = describe_targets(targets)
        metrics = {
            "loss": loss,
            "global_loss": global_loss,
            "local_loss": local_loss,
            **described,
            "kl": cross_entropy - described["teacher_entropy"],
            **self.centering.describe(state),
            "teacher_temperature": temperature,
            "local_weight": local_weight,
        }
        return Outcome(loss, state, metrics)
