"""Turns teacher logits into targets that do not collapse: DINO's center, or Sinkhorn-Knopp."""

import dataclasses
import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp

CenteringState = Any


class Centering(Protocol):
    """Turns teacher logits into targets, with explicit state."""

    def init(self, prototypes: int) -> CenteringState:
        """State before the first step, for K = `prototypes`."""
        ...

    def describe(self, state: CenteringState) -> dict[str, jax.Array]:
        """Scalars for the log."""
        ...

    def targets(
        self,
        logits: jax.Array,
        state: CenteringState,
        temperature: jax.Array,
        valid: jax.Array | None = None,
    ) -> tuple[jax.Array, CenteringState]:
        """Makes the targets of one step, without gradient.

        Args:
          logits: [..., K] float32 teacher logits; all leading axes together are the samples.
          state: state after the last step.
          temperature: scalar, > 0.
          valid: [...] bool, False for padding, which changes nothing; None if there is none.

        Returns:
          [..., K] float32 targets, each with sum 1 (padding: finite, meaningless), and the next
          state.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Center:
    """DINO's center, an EMA of the mean logits (arXiv:2104.14294, Section 3.1).

    The center of a step is that of the batches before it. The same holds in DINOv2: its code only
      delays the update until the next step needs it, which gives the same targets.

    With `accumulate_steps` > 1 the next center is the mean of those of the passes, which is that of
    the batch if all passes have equally many valid samples.

    Attributes:
      momentum: share of the old center in the next one, in [0, 1).
    """

    momentum: float

    def init(self, prototypes: int) -> dict[str, jax.Array]:
        return {"center": jnp.zeros((prototypes,), jnp.float32)}

    def describe(self, state: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {"center_norm": jnp.linalg.norm(state["center"])}

    def targets(
        self,
        logits: jax.Array,
        state: dict[str, jax.Array],
        temperature: jax.Array,
        valid: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        targets = center_and_sharpen(logits, state["center"], temperature)
        return targets, {"center": update_center(state["center"], logits, self.momentum, valid)}


@dataclasses.dataclass(frozen=True)
class Sinkhorn:
    """Sinkhorn-Knopp over all samples of the pass, as in SwAV and DINOv2; no state.

    With `accumulate_steps` > 1 a pass is a part of the batch, and each part is balanced by itself.

    Attributes:
      iterations: normalizations over samples and prototypes, at least 1; DINOv2 uses 3.
    """

    iterations: int = 3

    def init(self, prototypes: int) -> dict[str, jax.Array]:
        del prototypes
        return {}

    def describe(self, state: dict[str, jax.Array]) -> dict[str, jax.Array]:
        del state
        return {}

    def targets(
        self,
        logits: jax.Array,
        state: dict[str, jax.Array],
        temperature: jax.Array,
        valid: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        return sinkhorn_knopp(logits, temperature, self.iterations, valid), state


def center_and_sharpen(logits: jax.Array, center: jax.Array, temperature: jax.Array) -> jax.Array:
    """softmax((logits - center) / temperature) without gradient.

    Args:
      logits: [..., K] float32 teacher logits.
      center: [K] float32.
      temperature: scalar, > 0.

    Returns:
      [..., K] float32 probabilities.
    """
    return jax.nn.softmax(jax.lax.stop_gradient(logits - center) / temperature, axis=-1)


def update_center(
    center: jax.Array, logits: jax.Array, momentum: float, valid: jax.Array | None = None
) -> jax.Array:
    """EMA of the batch mean of the raw teacher logits (arXiv:2104.14294, Eq. 4).

    Under jit the mean is the mean over the global batch.

    Args:
      center: [K] float32.
      logits: [..., K] float32 teacher logits, neither centered nor divided by a temperature.
      momentum: share of the old center, in [0, 1).
      valid: [...] bool, the samples that count; None for all.

    Returns:
      [K] the next center; the old one if no sample counts.
    """
    logits = jax.lax.stop_gradient(logits)
    axes = tuple(range(logits.ndim - 1))
    if valid is None:
        return momentum * center + (1.0 - momentum) * jnp.mean(logits, axis=axes)
    count = jnp.sum(valid, dtype=jnp.float32)
    mean = jnp.sum(logits * valid[..., None], axis=axes) / jnp.maximum(count, 1.0)
    return jnp.where(count > 0, momentum * center + (1.0 - momentum) * mean, center)


def sinkhorn_knopp(
    logits: jax.Array,
    temperature: jax.Array | float,
    iterations: int,
    valid: jax.Array | None = None,
) -> jax.Array:
    """Balances teacher logits into soft assignments, without gradient.

    Normalizes in turn over samples, so that all prototypes get the same share of the global batch,
    and over prototypes (SwAV, arXiv:2006.09882, Eq. 3; DINOv2, arXiv:2304.07193, Section 4). The
    matrix exp(logits / temperature) is scaled by one factor per prototype and one per sample; only
    their logarithms are iterated on. The numbers of samples and prototypes, by which the official
    code divides, cancel.

    Args:
      logits: [..., K] float32; all leading axes together are the samples.
      temperature: > 0.
      iterations: normalizations of both kinds; without any, only the mean sum of an assignment
        is 1.
      valid: [...] bool, the samples that take part; None for all.

    Returns:
      [..., K] float32 assignments, each with sum 1; 0 where not valid.
    """
    scores = jax.lax.stop_gradient(logits) / temperature
    samples = tuple(range(logits.ndim - 1))
    takes_part = jnp.ones((*logits.shape[:-1], 1), bool) if valid is None else valid[..., None]
    per_sample = jnp.zeros(takes_part.shape, jnp.float32)
    # Used only without iterations; otherwise XLA drops it.
    per_prototype = jnp.log(jnp.sum(takes_part)) - jax.nn.logsumexp(scores, where=takes_part)
    for _ in range(iterations):
        per_prototype = -jax.nn.logsumexp(scores + per_sample, axis=samples, where=takes_part)
        per_sample = -jax.nn.logsumexp(scores + per_prototype, axis=-1, keepdims=True)
    return jnp.where(takes_part, jnp.exp(scores + per_prototype + per_sample), 0.0)


def describe_targets(targets: jax.Array, valid: jax.Array | None = None) -> dict[str, jax.Array]:
    """Signs of collapse: the sharpness of the targets, and how evenly they use the prototypes.

    Args:
      targets: [..., K] float32.
      valid: [...] bool, the samples that count; None for all.

    Returns:
      Scalars: "teacher_entropy", the mean entropy of a target, and "mean_teacher_entropy", the
      entropy of the mean target, in nats; the same as shares of ln K, "relative_…"; the number of
      prototypes that are the largest of a target, "used_prototypes", and the share of the targets
      that have the most frequent of them, "top_prototype_share".
    """
    prototypes = targets.shape[-1]
    weights = jnp.ones(targets.shape[:-1]) if valid is None else valid.astype(jnp.float32)
    weights = weights / jnp.maximum(jnp.sum(weights), 1.0)
    mean_target = jnp.sum(targets * weights[..., None], axis=tuple(range(weights.ndim)))
    entropies = {
        "teacher_entropy": jnp.sum(weights * entropy(targets)),
        "mean_teacher_entropy": entropy(mean_target),
    }
    relative = {f"relative_{name}": x / math.log(prototypes) for name, x in entropies.items()}
    largest = jnp.argmax(targets, axis=-1)
    shares = jnp.zeros(prototypes).at[largest].add(weights)
    return {
        **entropies,
        **relative,
        "top_prototype_share": jnp.max(shares),
        "used_prototypes": jnp.sum(shares > 0, dtype=jnp.float32),
    }


def entropy(probabilities: jax.Array) -> jax.Array:
    """[..., K] -> [...] Shannon entropy in nats; 0 log 0 = 0."""
    return jnp.sum(jax.scipy.special.entr(probabilities), axis=-1)
