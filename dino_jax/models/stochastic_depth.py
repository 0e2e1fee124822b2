"""Stochastic depth (arXiv:1603.09382), as DINO and as DINOv2 train with it.

DINO drops a residual branch sample by sample: every sample is computed, some are thrown away.
DINOv2 (arXiv:2304.07193, Section 5) draws a subset of the samples and computes the branch for these
only. The official code draws it from the batch of one GPU, so that its meaning changes with the
number of GPUs; here it is drawn from groups of `group` samples, for any number of devices. A subset
costs no communication while every group lies on one device, that is, while `group` divides the
samples of a device: with V crops of one size per image and B images per device, these are B * V
samples.
"""

import jax
import jax.numpy as jnp
import numpy as np

DROP_PATH_KINDS = ("per_sample", "subset")
DROP_PATH_SCHEDULES = ("linear", "uniform")


def drop_rates(schedule: str, rate: float, depth: int) -> np.ndarray:
    """[depth] float32 drop rates: "linear" from 0 to `rate` (DINO) or "uniform" (DINOv2)."""
    first = {"linear": 0.0, "uniform": rate}[schedule]
    return np.linspace(first, rate, depth, dtype=np.float32)


def branch_scales(rate: jax.Array, rng: jax.Array, batch: int) -> jax.Array:
    """[B, 1, 1] float32 factors of a residual branch: 0 drops a sample's, else 1 / (1 - rate).

    Args:
      rate: scalar probability of dropping a sample, in [0, 1).
      rng: key of the draw.
      batch: B
    """
    keep = 1.0 - rate
    return jnp.where(jax.random.bernoulli(rng, keep, (batch, 1, 1)), 1.0 / keep, 0.0)


def subset_size(group: int, rate: float) -> int:
    """Samples of a group that a branch runs on; rounds down in double precision, as officially."""
    return max(int(group * (1 - rate)), 1)


def draw_permutations(rng: jax.Array, draws: tuple[int, ...], group: int) -> jax.Array:
    """int [*draws, group] random permutations of [0, group)."""
    return jnp.argsort(jax.random.bits(rng, (*draws, group)), axis=-1)


def choose_subsets(rng: jax.Array, batch: int, depth: int, group: int, rate: float) -> jax.Array:
    """The samples that each branch of each block runs on.

    Args:
      rng: typed key of the draw.
      batch: samples of all groups.
      depth: number of blocks.
      group: samples of a group.
      rate: share of the samples that are dropped.

    Returns:
      int32 [depth, 2, G, k] different indices into each of the G groups, for the attention and the
      FFN of each block.

    Raises:
      ValueError: if `group` does not divide `batch`.
    """
    if batch % group:
        raise ValueError(
            f"drop_path_group ({group}) must divide the {batch} samples (images x views of one "
            "size) of every pass"
        )
    permutations = draw_permutations(rng, (depth, 2, batch // group), group)
    return permutations[..., : subset_size(group, rate)].astype(jnp.int32)


def take_subset(x: jax.Array, kept: jax.Array | None) -> jax.Array:
    """The samples that a branch runs on.

    Args:
      x: [B, ...], consecutive samples form the G groups.
      kept: [G, k] different indices in [0, B / G) per group; None for all samples.

    Returns:
      [G * k, ...]
    """
    if kept is None:
        return x
    take = jax.vmap(
        lambda samples, index: samples.at[index].get(unique_indices=True, mode="promise_in_bounds")
    )
    return take(_in_groups(x, kept), kept).reshape(kept.size, *x.shape[1:])


def subset_scale(x: jax.Array, kept: jax.Array | None) -> float:
    """Factor of a branch that ran on a subset, so that its mean is that of the whole branch.

    Args:
      x: [B, ...] all samples.
      kept: [G, k] as `take_subset` takes it.
    """
    return 1.0 if kept is None else x.shape[0] / kept.size


def put_subset(x: jax.Array, moved: jax.Array, kept: jax.Array | None) -> jax.Array:
    """The samples with those of a subset replaced; inverse of `take_subset`.

    Args:
      x: [B, ...] all samples.
      moved: [G * k, ...] replacements of `take_subset(x, kept)`.
      kept: [G, k]; None for all samples.
    """
    if kept is None:
        return moved
    put = jax.vmap(
        lambda samples, index, rows: samples.at[index].set(
            rows, unique_indices=True, mode="promise_in_bounds"
        )
    )
    rows = moved.reshape(*kept.shape, *x.shape[1:])
    return put(_in_groups(x, kept), kept, rows).reshape(x.shape)


def _in_groups(x: jax.Array, kept: jax.Array) -> jax.Array:
    return x.reshape(kept.shape[0], -1, *x.shape[1:])
