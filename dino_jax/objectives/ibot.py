"""iBOT (arXiv:2111.07832): the student sees masked images and predicts the teacher's patches."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from dino_jax.config.section import option
from dino_jax.objectives.base import Context, Needs, Outcome, Outputs
from dino_jax.objectives.centering import (
    Centering,
    CenteringState,
    describe_targets,
    entropy,
)
from dino_jax.objectives.distillation import DistillationConfig, build_distillation
from dino_jax.optim.schedules import Constant, Schedule


@dataclass(frozen=True)
class Config(DistillationConfig):
    """A section of `config.objectives` of kind "ibot"."""

    kind: str = option("ibot", "of the objective")


def build(where: str, config: Config, context: Context) -> "IbotObjective":
    """Builds the objective.

    Raises:
      ValueError: as in `build_distillation`.
    """
    return IbotObjective(**build_distillation(where, config, context))


def gather_patches(outputs: Outputs, indices: jax.Array) -> jax.Array:
    """Takes the listed patch tokens of each group of images.

    Args:
      outputs: outputs of one network on the G global views.
      indices: [B / g, U] int32 into the g * G * N patches of a group of g images, image-major.

    Returns:
      [B / g, U, D] tokens. No communication where a group is on one device.
    """
    patches = jnp.stack([view["patches"] for view in outputs.features], axis=1)
    grouped = patches.reshape(indices.shape[0], -1, patches.shape[-1])
    return jnp.take_along_axis(grouped, indices[..., None], axis=1)


def ibot_loss(
    student: jax.Array, targets: jax.Array, weights: jax.Array, temperature: float, crops: int
) -> jax.Array:
    """Cross-entropy of the masked patches: weighted mean in a crop, then the mean over all crops.

    The mean counts crops without a mask too, as in the official code.

    Args:
      student: [..., K] float32 student logits of masked patches.
      targets: [..., K] float32 teacher probabilities of the same patches.
      weights: [...] float32, 1 / (masked patches of the same crop), 0 for padding.
      temperature: temperature of the student's softmax, > 0.
      crops: global crops of the global batch, masked or not.

    Returns:
      Scalar.
    """
    logits = student / temperature
    cross_entropy = jax.nn.logsumexp(logits, axis=-1) - jnp.sum(targets * logits, axis=-1)
    return jnp.sum(weights * cross_entropy) / crops


@dataclass(frozen=True)
class IbotObjective:
    """Masked image modeling with the teacher's patches as targets, as in DINOv2.

    The batch brings "masks" [B, G, N] (which the student's backbone has applied), "mask_indices"
    and "mask_weight" [B / g, U], see `data.mask_indices`. The head may be that of DINO: without
    BatchNorm in it, two calls give the same as the official code's one call with all tokens.

    Attributes:
      head: name of the projection head.
      prototypes: K of that head.
      student_temperature: temperature of the student's softmax.
      teacher_temperature: schedule of the teacher's temperature.
      centering: how teacher logits become targets, over all masked patches of the batch.
      weight: schedule of this objective's weight in the total loss.
      learner: role that learns.
      targets: role that gives the targets.
    """

    head: str
    prototypes: int
    student_temperature: float
    teacher_temperature: Schedule
    centering: Centering
    weight: Schedule = Constant(1.0)
    learner: str = "student"
    targets: str = "teacher"

    @property
    def needs(self) -> Needs:
        """Masks, and the same patches in both networks."""
        return Needs(
            roles=(self.learner, self.targets),
            heads=(self.head,),
            groups=("global",),
            aligned_patches=True,
            masks=True,
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
        """Loss of the masked patches; "logged_loss" is what DINOv2 logs, half of it.

        "kl" is KL(teacher || student), the mean over the crops that have a mask.
        """
        indices, weights = batch["mask_indices"], batch["mask_weight"]
        student, teacher = (
            branches[name].of_group("global") for name in (self.learner, self.targets)
        )
        views = len(teacher.features)
        images, tokens, _ = teacher.features[0]["patches"].shape
        student_logits = student.project(self.head, gather_patches(student, indices))
        teacher_logits = teacher.project(self.head, gather_patches(teacher, indices))
        temperature = self.teacher_temperature(step)
        valid = weights > 0
        targets, state = self.centering.targets(teacher_logits, state, temperature, valid)
        loss = ibot_loss(student_logits, targets, weights, self.student_temperature, images * views)
        excess = loss * images * views - jnp.sum(weights * entropy(targets))
        metrics = {
            "loss": loss,
            "logged_loss": loss / 2,
            **describe_targets(targets, valid),
            "kl": excess / jnp.maximum(jnp.sum(weights), 1.0),
            **self.centering.describe(state),
            "teacher_temperature": temperature,
            "masked_share": jnp.sum(valid, dtype=jnp.float32) / (images * views * tokens),
        }
        return Outcome(loss, state, metrics)
