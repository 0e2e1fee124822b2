"""Repeats recorded draws of stochastic depth on subsets."""

import contextlib
from collections.abc import Iterator, Mapping
from unittest import mock

import jax

from dino_jax.models import stochastic_depth


@contextlib.contextmanager
def recorded_subsets(permutations: Mapping[int, jax.Array]) -> Iterator[None]:
    """While it is open, subsets are those of a recording instead of random ones.

    Official recordings count the crops of one size view by view: row v * B + i there is row
    i * V + v of our [B, V] crops.

    Args:
      permutations: by the samples of a group, int [depth, 2, G, >= k]: indices into each group, of
        which the first k are kept. Traced arrays are taken inside of a jit.
    """

    def draw(_: jax.Array, draws: tuple[int, ...], group: int) -> jax.Array:
        recorded = permutations[group]
        assert recorded.shape[:-1] == draws, (recorded.shape, draws)
        return recorded

    with mock.patch.object(stochastic_depth, "draw_permutations", draw):
        yield
