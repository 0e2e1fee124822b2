"""DINO (arXiv:2104.14294): cross-entropy of teacher and student over all pairs of views."""

import dataclasses

import jax
import jax.numpy as jnp

from dino_jax.objectives.base import Branch, Outcome
from dino_jax.objectives.centering import center_and_sharpen, entropy, update_center
from dino_jax.schedules import Schedule


def dino_loss(student: jax.Array, targets: jax.Array, temperature: float) -> jax.Array:
    """Mean cross-entropy over all (teacher view, student view) pairs of different views (Eq. 3).

    Targets sum to 1, so the cross-entropy of a pair is logsumexp(s) - <target, s> with s = student
    / temperature: all pairs are one batched product, and no [B, K] array is made per pair.

    Args:
      student: [B, V, K] float32 student logits, global views first.
      targets: [B, G, K] float32 teacher probabilities of the G global views.
      temperature: of the student's softmax, > 0.

    Returns:
      Scalar: mean over the images of the global batch and the pairs, all with equal weight.
    """
    logits = student / temperature
    log_partition = jax.nn.logsumexp(logits, axis=-1)
    agreement = jnp.einsum("bgk,bvk->bgv", targets, logits, precision="highest")
    cross_entropy = jnp.mean(log_partition[:, None, :] - agreement, axis=0)
    teachers, views = cross_entropy.shape
    different = 1.0 - jnp.eye(teachers, views)
    return jnp.sum(cross_entropy * different) / jnp.sum(different)


@dataclasses.dataclass(frozen=True)
class DinoObjective:
    """The DINO objective with its center as state.

    Attributes:
      head: name of the projection head.
      prototypes: K of that head.
      student_temperature: of the student's softmax.
      teacher_temperature: schedule of the teacher's.
      center_momentum: share of the old center in the next one.
      weight: of this objective in the total loss.
    """

    head: str
    prototypes: int
    student_temperature: float
    teacher_temperature: Schedule
    center_momentum: float
    weight: float = 1.0

    def init(self) -> dict[str, jax.Array]:
        return {"center": jnp.zeros((self.prototypes,), jnp.float32)}

    def __call__(
        self,
        student: Branch,
        teacher: Branch,
        batch: dict[str, jax.Array],
        state: dict[str, jax.Array],
        step: jax.Array,
    ) -> Outcome:
        """Loss with the old center; the center moves afterwards, by the raw logits."""
        del batch
        student_logits = student.project(self.head, student.cls_tokens())
        teacher_logits = teacher.project(self.head, teacher.cls_tokens())
        temperature = self.teacher_temperature(step)
        targets = center_and_sharpen(teacher_logits, state["center"], temperature)
        loss = dino_loss(student_logits, targets, self.student_temperature)
        center = update_center(state["center"], teacher_logits, self.center_momentum)
        metrics = {
            "loss": loss,
            "teacher_entropy": jnp.mean(entropy(targets)),
            "mean_teacher_entropy": entropy(jnp.mean(targets, axis=(0, 1))),
            "teacher_temperature": temperature,
        }
        return Outcome(loss, {"center": center}, metrics)
