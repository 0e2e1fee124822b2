"""iBOT (arXiv:2111.07832): the student sees masked images and predicts the teacher's patches."""

import dataclasses

import jax
import jax.numpy as jnp

from dino_jax.objectives.base import Branch, Outcome
from dino_jax.objectives.centering import (
    Centering,
    CenteringState,
    describe_targets,
    entropy,
)
from dino_jax.optim.schedules import Schedule


def gather_patches(branch: Branch, views: int, indices: jax.Array) -> jax.Array:
    """Takes the listed patch tokens of each group of images.

    Args:
      branch: of the student or the teacher.
      views: G, number of global views.
      indices: [B / g, U] int32 into the g * G * N patches of a group of g images, image-major.

    Returns:
      [B / g, U, D] tokens. No communication where a group is on one device.
    """
    patches = jnp.stack([view["patches"] for view in branch.features[:views]], axis=1)
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
      temperature: of the student's softmax, > 0.
      crops: global crops of the global batch, masked or not.

    Returns:
      Scalar.
    """
    logits = student / temperature
    cross_entropy = jax.nn.logsumexp(logits, axis=-1) - jnp.sum(targets * logits, axis=-1)
    return jnp.sum(weights * cross_entropy) / crops


@dataclasses.dataclass(frozen=True)
class IbotObjective:
    """Masked image modelling with the teacher's patches as targets, as in DINOv2.

    The batch brings "masks" [B, G, N] (which the student's backbone has applied), "mask_indices"
    and "mask_weight" [B / g, U], see `data.mask_indices`. The head may be that of DINO: without
    BatchNorm in it two calls give what one call with all tokens gives in the official code.

    Attributes:
      head: name of the projection head.
      prototypes: K of that head.
      student_temperature: of the student's softmax.
      teacher_temperature: schedule of the teacher's.
      centering: how teacher logits become targets, over all masked patches of the batch.
      weight: of this objective in the total loss.
    """

    head: str
    prototypes: int
    student_temperature: float
    teacher_temperature: Schedule
    centering: Centering
    weight: float = 1.0

    def init(self) -> CenteringState:
        return self.centering.init(self.prototypes)

    def __call__(
        self,
        student: Branch,
        teacher: Branch,
        batch: dict[str, jax.Array],
        state: CenteringState,
        step: jax.Array,
    ) -> Outcome:
        """Loss of the masked patches; "logged_loss" is what DINOv2 logs, half of it.

        "kl" is KL(teacher || student), the mean over the crops that have a mask.
        """
        indices, weights = batch["mask_indices"], batch["mask_weight"]
        views = len(teacher.features)
        images, tokens, _ = teacher.features[0]["patches"].shape
        student_logits = student.project(self.head, gather_patches(student, views, indices))
        teacher_logits = teacher.project(self.head, gather_patches(teacher, views, indices))
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
