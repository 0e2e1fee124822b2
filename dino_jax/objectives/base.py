"""What an objective is and what it sees."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

ObjectiveState = Any


class Branch(NamedTuple):
    """What an objective sees of one network on one batch.

    Attributes:
      features: per view {"cls": [B, D], "patches": [B, N, D]}, global views first.
      project: (head name, [..., D]) -> [..., K] float32 logits. Call it once per head and branch
        with everything that goes through this head, because BatchNorm in a head sees what comes in
        one call as one batch.
    """

    features: tuple[dict[str, jax.Array], ...]
    project: Callable[[str, jax.Array], jax.Array]

    def cls_tokens(self) -> jax.Array:
        """[B, V, D] cls tokens of all views."""
        return jnp.stack([view["cls"] for view in self.features], axis=1)

    def first_views(self, count: int) -> "Branch":
        """The same branch with its first views only."""
        return self._replace(features=self.features[:count])


class Outcome(NamedTuple):
    """What an objective returns.

    Attributes:
      loss: scalar float32.
      state: the objective's next state.
      metrics: scalars for the log.
    """

    loss: jax.Array
    state: ObjectiveState
    metrics: dict[str, jax.Array]


class Objective(Protocol):
    """A loss with explicit state; pure, so that a train step is a pure function too."""

    @property
    def weight(self) -> float:
        """Of this loss in the sum of all."""
        ...

    @property
    def prototypes(self) -> int:
        """K of its head; 0 without a head."""
        ...

    def init(self) -> ObjectiveState:
        """State before the first step."""
        ...

    def __call__(
        self,
        student: Branch,
        teacher: Branch,
        batch: dict[str, jax.Array],
        state: ObjectiveState,
        step: jax.Array,
    ) -> Outcome:
        """Compares the branches; the gradient flows into the student only."""
        ...
