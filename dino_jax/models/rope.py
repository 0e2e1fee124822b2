"""Rotary position embeddings of patches along two axes, as DINOv3 has them.

Every head turns pairs of channels of its queries and keys by angles that grow with the row and the
column of a patch (RoPE, arXiv:2104.09864; along two axes: arXiv:2403.13298; with coordinates
relative to the image and their augmentation: DINOv3, arXiv:2508.10104, Sec. 3.2). Tokens in front
of the patches (cls, registers) keep their place.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dino_jax.config.section import option

Grid = tuple[int, int]

NORMALIZATIONS = ("separate", "max", "min")
PRECISIONS = ("float32", "bfloat16_periods", "bfloat16")
DRAWS = 5  # random numbers of an augmentation


@dataclass(frozen=True)
class Config:
    """The section `config.network.backbone.rope` of a ViT with position="rope"."""

    base: float = option(
        100.0, "periods grow from 1 towards this, without the two below", above=1, at_most=1e9
    )
    min_period: float | None = option(
        None, "first period, in halves of an image; None: as `base`", above=0, at_most=1e9
    )
    max_period: float | None = option(
        None, "last period, in halves of an image; None: as `base`", above=0, at_most=1e9
    )
    normalize: str = option(
        "separate",
        "coordinates are over the height and the width (separate), the larger (max) or the smaller",
        among=NORMALIZATIONS,
    )
    shift: float = option(
        0.0,
        "in training: moves each axis by up to so many halves of an image",
        at_least=0,
        at_most=1000,
    )
    jitter: float = option(
        1.0,
        "in training: scales each axis by up to this factor or its inverse",
        at_least=1,
        at_most=1000,
    )
    rescale: float = option(
        1.0,
        "in training: scales both axes by up to this factor (DINOv3 2)",
        at_least=1,
        at_most=1000,
    )
    precision: str = option(
        "float32",
        "of the angles: float32 | bfloat16_periods | bfloat16 (all of it, as DINOv3's trainer)",
        among=PRECISIONS,
    )

    @property
    def augments(self) -> bool:
        """Whether coordinates are changed in training."""
        return self != self.still

    @property
    def still(self) -> "Config":
        """The same without the changes in training."""
        return dataclasses.replace(self, shift=0.0, jitter=1.0, rescale=1.0)


class Rotation(NamedTuple):
    """Sines and cosines of the angles of N patches, for each of the d channels of a head.

    Attributes:
      sines: [N, d]
      cosines: [N, d]
    """

    sines: Any
    cosines: Any


def check(rope: Config, head_dim: int) -> None:
    """Checks that the options fit a head.

    Args:
      rope: the section.
      head_dim: d, channels of a head.

    Raises:
      ValueError: if they do not.
    """
    where = "config.network.backbone"
    if head_dim % 4:
        raise ValueError(
            f"{where}.position='rope' turns pairs of channels for two axes: embed_dim / num_heads "
            f"({head_dim}) must be a multiple of 4"
        )
    first, last = rope.min_period, rope.max_period
    if first is not None and head_dim < 8:
        raise ValueError(
            f"{where}.rope.min_period and max_period need embed_dim / num_heads ({head_dim}) of 8 "
            "or more; use `base`"
        )
    if (first is None) != (last is None):
        raise ValueError(
            f"{where}.rope.min_period ({first}) and max_period ({last}) come together; give both, "
            "or None for both, for periods by `base`"
        )
    if first is not None and last is not None and first >= last:
        raise ValueError(f"{where}.rope.min_period ({first:g}) must be below max_period ({last:g})")


def periods(rope: Config, head_dim: int) -> np.ndarray:
    """[d / 4] float32 periods of the angles, in halves of an image.

    base^(4 i / d), or geometric from the first to the last one, both included.

    Args:
      rope: the section.
      head_dim: d, channels of a head, a multiple of 4.
    """
    count = head_dim // 4
    steps = np.arange(count, dtype=np.float32)
    if rope.min_period is None or rope.max_period is None:
        exact = _power(rope.base, 2 * steps / np.float32(head_dim // 2))
    else:
        growth, step = np.float32(rope.max_period / rope.min_period), np.float32(1 / (count - 1))
        # From both ends, as torch's linspace: the last bits of the angles depend on it.
        shares = np.where(steps < count // 2, steps * step, 1 - (count - 1 - steps) * step)
        exact = _power(growth, shares) / growth * np.float32(rope.max_period)
    return exact if rope.precision == "float32" else _round(exact)


def _power(base: Any, exponents: np.ndarray) -> np.ndarray:
    """float32, correctly rounded."""
    return (np.float64(base) ** exponents.astype(np.float64)).astype(np.float32)


def draw_augmentation(rng: jax.Array, rope: Config, count: int) -> jax.Array:
    """[count, 5] numbers for `make_rotation`: uniform ones, within the bounds of the options.

    Args:
      rng: typed key.
      rope: the section.
      count: number of independent draws.
    """
    jitter, rescale = np.log(rope.jitter), np.log(rope.rescale)
    bounds = jnp.asarray([rope.shift] * 2 + [jitter] * 2 + [rescale], jnp.float32)
    return bounds * jax.random.uniform(rng, (count, DRAWS), jnp.float32, -1.0, 1.0)


def make_rotation(
    rope: Config, head_dim: int, grid: Grid, draw: jax.Array | None = None
) -> Rotation:
    """The angles of the patches of an image.

    The middle of patch i of n along an axis is at (2 i + 1) / n - 1. The first quarter of the
    channels has the angles of the row, the second those of the column, and the other half the same
    ones once more.

    Args:
      rope: the section.
      head_dim: d, channels of a head.
      grid: (rows, columns) of patches, N in all.
      draw: [5] shifts of rows and columns, logarithms of the factors of rows and columns, and of
        the factor of both, which apply in this order; None: no augmentation.

    Returns:
      Tables in the dtype in which queries and keys are turned, NumPy arrays if nothing is drawn.
    """
    kept = _round if rope.precision == "bfloat16" else (lambda x: x)
    points = _coordinates(rope, grid)
    if draw is not None:
        shift, jitter, rescale = jnp.split(kept(draw), (2, 4))
        points = kept(points + shift)
        points = kept(points * kept(jnp.exp(jitter)))
        points = kept(points * kept(jnp.exp(rescale)))
    turn = np.float32(2 * np.pi)
    angles = kept(kept(turn * points[:, :, None]) / periods(rope, head_dim))
    angles = angles.reshape(len(angles), head_dim // 2)
    waves: Any = np if draw is None else jnp
    dtype = jnp.bfloat16 if rope.precision == "bfloat16" else jnp.float32
    sines, cosines = (waves.tile(wave(angles), (1, 2)) for wave in (waves.sin, waves.cos))
    return Rotation(sines.astype(dtype), cosines.astype(dtype))


def make_rotations(
    rope: Config, head_dim: int, grids: Sequence[Grid], draws: Sequence[Any]
) -> list[Rotation]:
    """`make_rotation` of several grids, each with its draw."""
    return [
        make_rotation(rope, head_dim, grid, draw) for grid, draw in zip(grids, draws, strict=True)
    ]


def rotate(x: jax.Array, rotation: Rotation) -> jax.Array:
    """Turns queries or keys: channel c with channel c + d/2, in the dtype of the tables.

    Args:
      x: [B, T, H, d]; the last N tokens are the patches, which alone turn.
      rotation: of N patches.
    """
    sines, cosines = (jnp.asarray(table)[:, None] for table in rotation)
    before = x.shape[1] - len(sines)
    patches = x[:, before:].astype(sines.dtype)
    first, second = jnp.split(patches, 2, axis=-1)
    turned = patches * cosines + jnp.concatenate([-second, first], axis=-1) * sines
    return jnp.concatenate([x[:, :before], turned.astype(x.dtype)], axis=1)


def _coordinates(rope: Config, grid: Grid) -> np.ndarray:
    """[N, 2] float32 rows and columns of the middles of patches, in [-1, 1]."""
    kept = _round if rope.precision == "bfloat16" else (lambda x: x)
    sides = {"separate": grid, "max": (max(grid),) * 2, "min": (min(grid),) * 2}[rope.normalize]
    axes = [
        kept(kept(np.arange(0.5, count, dtype=np.float32)) / np.float32(side))
        for count, side in zip(grid, sides, strict=True)
    ]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    return kept(kept(2 * points) - np.float32(1))


def _round(x: Any) -> Any:
    """Rounds float32 numbers to those of bfloat16."""
    if isinstance(x, jax.Array):
        return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
    return x.astype(jnp.bfloat16).astype(np.float32)
