"""Measures of a step besides its loss: whether features are alive and updates sane.

Everything here is a mean over images or a sum over parameters, so that under jit it is that of the
global batch and of the whole state, whatever the mesh. Measures that need eigenvalues are left to
the host, once per log interval. docs/metrics.md lists healthy values.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dino_jax.objectives.base import Outputs
from dino_jax.step.roles import Role, find_learner

MOMENTS = "cls_moments"  # in the metrics: arrays that the host turns into numbers when it logs
FLOAT32 = float(np.finfo(np.float32).eps)
NOISE = 10.0  # relative rounding error of a matrix product, which hides smaller eigenvalues


def build_measures(
    roles: Mapping[str, Role], evaluated: str, views: Mapping[str, int]
) -> list[Callable[[Mapping[str, Outputs]], dict[str, Any]]]:
    """Measures of a step on the outputs of its networks.

    Args:
      roles: roles by name.
      evaluated: the role whose features matter; if it sees nothing, those of the learner are
        measured in its place.
      views: crops of an image by group; the first group of that role that has any is measured.
    """
    learner = find_learner(roles)
    measured = evaluated if roles[evaluated].sees else learner
    group = next(group for group in roles[measured].sees if views[group])
    measures: list[Callable[[Mapping[str, Outputs]], dict[str, Any]]] = [
        lambda branches: {MOMENTS: measure_moments(branches[measured].of_group(group))}
    ]
    if measured != learner and group in roles[learner].sees:
        measures.append(
            lambda branches: describe_agreement(
                branches[learner].of_group(group), branches[measured].of_group(group)
            )
        )
    return measures


def describe_agreement(learner: Outputs, other: Outputs) -> dict[str, jax.Array]:
    """Agreement of two networks about the cls tokens of the same crops.

    Returns:
      "health/student_teacher_cosine": scalar, mean over the crops of the batch.
    """
    ours, theirs = (outputs.cls_tokens().astype(jnp.float32) for outputs in (learner, other))
    product = jnp.sum(ours * theirs, axis=-1)
    norms = jnp.linalg.norm(ours, axis=-1) * jnp.linalg.norm(theirs, axis=-1)
    return {"health/student_teacher_cosine": jnp.mean(product / jnp.maximum(norms, 1e-12))}


def measure_moments(outputs: Outputs) -> dict[str, jax.Array]:
    """First and second moments of the cls tokens of all views.

    Returns:
      {"mean": [D], "second": [D, D]} float32, means over the rows of the batch; so those of the
      passes of an update average to those of the batch.
    """
    cls = outputs.cls_tokens().astype(jnp.float32)
    rows = cls.shape[0] * cls.shape[1]
    second = jnp.einsum("bvd,bve->de", cls, cls, precision="highest") / rows
    return {"mean": jnp.mean(cls, axis=(0, 1)), "second": second}


def describe_moments(moments: dict[str, np.ndarray]) -> dict[str, float]:
    """The number of dimensions that features use, and their variation over the images.

    Args:
      moments: result of `measure_moments`, on the host.

    Returns:
      "health/effective_rank": see `effective_rank`; "health/feature_std": mean over the dimensions
      of the standard deviation, in units of the root mean square of the features (with features of
      length 1 that is the std times sqrt(D) of SimSiam, arXiv:2011.10566, Section 4.1).
    """
    mean, second = (np.asarray(moments[name], np.float64) for name in ("mean", "second"))
    squares = np.diagonal(second)
    with np.errstate(invalid="ignore"):
        std = np.sqrt(np.maximum(squares - mean**2, 0))
        spread = np.mean(std) / np.sqrt(np.mean(squares))
    return {"health/effective_rank": effective_rank(second), "health/feature_std": float(spread)}


def effective_rank(second: np.ndarray, precision: float = FLOAT32) -> float:
    """RankMe (arXiv:2210.02885, Eq. 1): exp of the entropy of the normalized singular values.

    Args:
      second: [D, D], Z^T Z of features Z [N, D] up to a factor.
      precision: relative precision of `second`; smaller eigenvalues count as 0.

    Returns:
      A number between 1 and min(N, D); nan if a number is not finite or all are 0.
    """
    if not np.all(np.isfinite(second)) or not np.any(second):
        return float("nan")
    eigenvalues = np.linalg.eigvalsh(second.astype(np.float64))
    singular = np.sqrt(eigenvalues[eigenvalues > NOISE * precision * eigenvalues[-1]])
    shares = singular / np.sum(singular)
    return float(np.exp(-np.sum(shares * np.log(shares))))


def describe_norms(trees: dict[str, Any]) -> dict[str, jax.Array]:
    """L2 norms by module, such as {"norm/backbone/grad": …, "norm/heads_dino/update": …}.

    Args:
      trees: trees by name ("grad", "update", "param"), each {"backbone": {…}, "heads_NAME": {…}}.
    """
    return {
        f"norm/{module}/{what}": optax.tree.norm(part)
        for what, tree in trees.items()
        for module, part in tree.items()
    }
