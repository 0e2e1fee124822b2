"""SimCLR (arXiv:2002.05709): a view finds the other one of its image among all of the batch."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from dino_jax.config.section import option
from dino_jax.objectives.base import Context, Needs, Outcome, Outputs, check_head
from dino_jax.objectives.sphere import alignment, to_sphere, uniformity
from dino_jax.optim.schedules import Constant, Schedule

REMOVED = 1e9  # official; subtracted from the logit of a view with itself
NORM_FLOOR = 1e-6  # official: squared norms are at least 1e-12


@dataclass(frozen=True)
class Config:
    """A section of `config.objectives` of kind "simclr"."""

    kind: str = option("simclr", "of the objective")
    weight: float = option(1.0, "of this loss in the sum", at_least=0, at_most=1e6)
    head: str = option("projector", "head whose outputs are compared")
    temperature: float = option(0.1, "of the softmax over the batch", at_least=1e-3, at_most=1000)


def build(where: str, config: Config, context: Context) -> "SimclrObjective":
    """Builds the objective.

    Raises:
      ValueError: if the head is unknown.
    """
    check_head(f"{where}.head", config.head, context)
    return SimclrObjective(
        Constant(config.weight), config.temperature, config.head, context.learner
    )


def nt_xent(a: jax.Array, b: jax.Array, temperature: float) -> tuple[jax.Array, jax.Array]:
    """NT-Xent of two views (Eq. 1), the sum of both directions as in the official code.

    Each of the 2 B views has 2 B - 1 candidates, the B of the other kind first. The sum of the two
    means over B is twice the mean over 2 B of the paper.

    Args:
      a: [B, D] float32 of length 1, first views.
      b: [B, D], likewise the second views of the same images.
      temperature: of the softmax, > 0.

    Returns:
      Two scalars: the loss, and the share of the views whose most similar candidate is the other
      view of their image.
    """
    losses, hits = [], []
    for one, other in ((a, b), (b, a)):
        candidates = jnp.concatenate([other, one])
        logits = jnp.einsum("id,jd->ij", one, candidates, precision="highest") / temperature
        count = len(one)
        logits -= REMOVED * jnp.eye(count, 2 * count, k=count)
        log_shares = jax.nn.log_softmax(logits, axis=-1)
        losses.append(-jnp.mean(jnp.diagonal(log_shares)))
        hits.append(jnp.mean(jnp.argmax(logits, axis=-1) == jnp.arange(count)))
    return losses[0] + losses[1], (hits[0] + hits[1]) / 2


@dataclass(frozen=True)
class SimclrObjective:
    """NT-Xent of the student's views; of more than two views, the mean over all pairs.

    Attributes:
      weight: schedule of this objective's weight in the total loss.
      temperature: of the softmax over the batch.
      head: name of the projection head.
      learner: role that learns.
    """

    weight: Schedule
    temperature: float = 0.1
    head: str = "projector"
    learner: str = "student"

    @property
    def needs(self) -> Needs:
        """BatchNorm sees all views at once, as in the official code."""
        return Needs(
            roles=(self.learner,),
            heads=(self.head,),
            views=2,
            whole_batch=True,
            views_apart=False,
        )

    def init(self) -> dict[str, jax.Array]:
        return {}

    def __call__(
        self,
        branches: Mapping[str, Outputs],
        batch: dict[str, jax.Array],
        state: Any,
        step: jax.Array,
    ) -> Outcome:
        del batch, step
        student = branches[self.learner]
        projected = student.project(self.head, student.cls_tokens())
        views = jnp.moveaxis(to_sphere(projected, NORM_FLOOR), 1, 0)
        measured = [
            (*nt_xent(a, b, self.temperature), alignment(a, b))
            for a, b in itertools.combinations(views, 2)
        ]
        loss, accuracy, distance = jnp.mean(jnp.asarray(measured), axis=0)
        metrics = {
            "loss": loss,
            "accuracy": accuracy,
            "alignment": distance,
            "uniformity": uniformity(views[0]),
        }
        return Outcome(loss, state, metrics)
