"""The protocol of objectives: their inputs, and their requirements of the run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from dino_jax.optim.schedules import Schedule

ObjectiveState = Any


class Input(NamedTuple):
    """One view as a network got it.

    Attributes:
      images: [B, H, W, C] normalized.
      visible: int32 [B, k], the patches that were encoded; None: all.
    """

    images: jax.Array
    visible: jax.Array | None


class Outputs(NamedTuple):
    """Outputs of one network on one batch, as an objective sees them.

    Attributes:
      features: per view {"cls": [B, D], "patches": [B, N, D]}, in the order in which the role sees
        its groups of crops.
      groups: per view, its group.
      project: (head name, its input) -> [..., K] float32. The input is [..., D]; a head of "tokens"
        takes the triple (cls, patches, visible) of a view. Call it once per head and network with
        everything that goes through this head, because BatchNorm in a head sees what comes in one
        call as one batch; an objective that keeps views apart calls it once per view.
      inputs: per view what the backbone got.
    """

    features: tuple[dict[str, jax.Array], ...]
    groups: tuple[str, ...]
    project: Callable[[str, Any], jax.Array]
    inputs: tuple[Input, ...] = ()

    def cls_tokens(self) -> jax.Array:
        """[B, V, D] cls tokens of all views."""
        return jnp.stack([view["cls"] for view in self.features], axis=1)

    def of_group(self, group: str) -> "Outputs":
        """The same with the views of one group only."""
        views = [view for view, name in enumerate(self.groups) if name == group]
        return self._replace(
            features=tuple(self.features[view] for view in views),
            groups=(group,) * len(views),
            inputs=tuple(self.inputs[view] for view in views if self.inputs),
        )


class Outcome(NamedTuple):
    """Result of an objective.

    Attributes:
      loss: scalar float32.
      state: the objective's next state.
      metrics: scalars for the log.
    """

    loss: jax.Array
    state: ObjectiveState
    metrics: dict[str, jax.Array]


@dataclass(frozen=True)
class Needs:
    """Requirements of an objective; `dino_jax.step.needs` checks them before the first step.

    Attributes:
      roles: roles whose outputs it reads, including the learner.
      heads: heads that all of these roles have, with equal numbers of outputs.
      groups: groups of crops that all of these roles see, each with at least one crop.
      views: least number of views of an image that the learner sees.
      aligned_views: whether the views of each of these roles are the first ones of the learner.
      aligned_patches: whether it compares patches of the same place in several networks, so that
        none of them may drop any.
      masks: whether the batch needs masks.
      whole_batch: whether it compares images of the batch with each other, so that the passes of
        an accumulated update would not add up to that of the batch.
      views_apart: whether BatchNorm sees each view as a batch of its own (True) or all views of a
        role together (False); None if it does not matter.
      group_size: number of images that divides those of a pass; 0: any.
      images: least number of images in a pass.
      sees: pairs of a role and a further group of crops that it sees.
      same_boxes: pairs of groups whose crops have the same boxes, in the same order.
      same_width: whether it compares features of several networks number by number.
    """

    roles: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    views: int = 1
    aligned_views: bool = False
    aligned_patches: bool = False
    masks: bool = False
    whole_batch: bool = False
    views_apart: bool | None = None
    group_size: int = 0
    images: int = 1
    sees: tuple[tuple[str, str], ...] = ()
    same_boxes: tuple[tuple[str, str], ...] = ()
    same_width: bool = False


@dataclass(frozen=True)
class Context:
    """Values that an objective takes from the rest of the config.

    Attributes:
      learner: name of the role that learns.
      outputs: out_dim of every head by name.
      inputs: what every head takes by name: a feature, or the name of another head.
      total_steps: updates of the run.
      steps_per_epoch: updates per epoch.
    """

    learner: str
    outputs: Mapping[str, int]
    inputs: Mapping[str, str]
    total_steps: int
    steps_per_epoch: int


def check_head(where: str, head: str, context: Context) -> None:
    """Checks that there is a head that takes features of the backbone.

    Args:
      where: name of the option that names the head, for messages.
      head: its value.
      context: the other parts of the config.

    Raises:
      ValueError: if there is no such head, or it takes another head.
    """
    if head not in context.outputs:
        raise ValueError(f"{where} is {head!r}; config.network.heads has {sorted(context.outputs)}")
    taken = context.inputs[head]
    if taken in context.inputs:  # the name of another head
        raise ValueError(
            f"{where} is {head!r}, which takes the output of the head {taken!r}; this objective "
            f"needs one that takes features: set --config.network.heads.{head}.of to cls or "
            f"patches, or name another head of {sorted(context.outputs)}"
        )


class Objective(Protocol):
    """A loss with explicit state; pure, so that a train step is a pure function too."""

    @property
    def weight(self) -> Schedule:
        """Weight of this loss in the sum of all."""
        ...

    @property
    def needs(self) -> Needs:
        """Its requirements of the run."""
        ...

    def init(self) -> ObjectiveState:
        """State before the first step."""
        ...

    def __call__(
        self,
        branches: Mapping[str, Outputs],
        batch: dict[str, jax.Array],
        state: ObjectiveState,
        step: jax.Array,
    ) -> Outcome:
        """Compares the outputs of roles, by name; the gradient flows into the learner only."""
        ...
