"""Exact nearest neighbors in tiles: never a matrix of all similarities in memory."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from dino_jax.devices.sharding import batch_sharding, put_everywhere

QUERY_TILE = 1024  # queries compared at once
TILE = 8192  # rows compared with them at once, on every device


class Neighbours(NamedTuple):
    """The most similar rows of each of M queries, the most similar first.

    Attributes:
      similarities: [M, k] float32 inner products.
      indices: [M, k] int32 rows.
    """

    similarities: np.ndarray
    indices: np.ndarray


def local_mesh() -> Mesh:
    """The devices of this process."""
    return Mesh(np.array(jax.local_devices()).reshape(-1, 1), ("data", "fsdp"))


def find_nearest(rows: np.ndarray, queries: np.ndarray, k: int, mesh: Mesh) -> Neighbours:
    """The k rows with the largest inner product with each query, exactly.

    The rows are split over the devices. Each keeps the k best while it goes through its rows tile
    by tile, then the best of all devices are merged. Of equal rows, the first one is nearer.

    Args:
      rows: [N, D] float32; of length 1 for cosine similarity.
      queries: [M, D] float32.
      k: in [1, N].
      mesh: mesh of the devices; all processes of a mesh call this with the same arrays.

    Returns:
      Results, the same on every process.

    Raises:
      ValueError: if k is out of range.
    """
    if not 1 <= k <= len(rows):
        raise ValueError(f"k must be between 1 and the number of rows ({len(rows)}), got {k}")
    tile = min(TILE, math.ceil(len(rows) / mesh.size))
    split = _split_rows(rows, tile, mesh)
    found = []
    for start in range(0, len(queries), QUERY_TILE):
        block = put_everywhere(queries[start : start + QUERY_TILE], mesh)
        best = _search(split, block, k=k, count=len(rows), tile=tile, mesh=mesh)
        found.append(jax.tree.map(np.asarray, best))
    similarities, indices = zip(*found, strict=True)
    return Neighbours(np.concatenate(similarities), np.concatenate(indices))


def _split_rows(rows: np.ndarray, tile: int, mesh: Mesh) -> jax.Array:
    """[N', D] over all devices, zeros after the N rows so that every device has whole tiles."""
    total = math.ceil(len(rows) / (tile * mesh.size)) * tile * mesh.size

    def part(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(total)
        own = rows[start:stop]
        return np.pad(own, ((0, stop - start - len(own)), (0, 0)))

    return jax.make_array_from_callback((total, rows.shape[1]), batch_sharding(mesh), part)


@partial(jax.jit, static_argnames=("k", "count", "tile", "mesh"))
def _search(
    rows: jax.Array, queries: jax.Array, *, k: int, count: int, tile: int, mesh: Mesh
) -> tuple[jax.Array, jax.Array]:
    """[M, k] similarities and indices; rows from `count` on are padding."""

    def search_device(own: jax.Array, queries: jax.Array) -> tuple[jax.Array, jax.Array]:
        first = jax.lax.axis_index(mesh.axis_names) * len(own)

        def merge(best, numbered_tile):
            number, block = numbered_tile
            similarity = jnp.matmul(queries, block.T, precision="highest")
            index = first + number * tile + jnp.arange(tile, dtype=jnp.int32)
            similarity = jnp.where(index < count, similarity, -jnp.inf)
            both = (similarity, jnp.broadcast_to(index, similarity.shape))
            pairs = zip(best, both, strict=True)
            return _largest(*(jnp.concatenate(pair, axis=1) for pair in pairs), k=k), None

        shape = (len(queries), k)
        nothing = (jnp.full(shape, -jnp.inf), jnp.zeros(shape, jnp.int32))
        tiles = own.reshape(-1, tile, own.shape[1])
        numbers = jnp.arange(len(tiles), dtype=jnp.int32)
        best, _ = jax.lax.scan(merge, nothing, (numbers, tiles))
        gathered = (jax.lax.all_gather(part, mesh.axis_names, axis=1, tiled=True) for part in best)
        return _largest(*gathered, k=k)

    split, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
    return jax.shard_map(
        search_device, mesh=mesh, in_specs=(split, whole), out_specs=whole, check_vma=False
    )(rows, queries)


def _largest(similarity: jax.Array, index: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k largest of each row; of equal ones, the first, as `jax.lax.top_k` promises."""
    nearest, place = jax.lax.top_k(similarity, k)
    return nearest, jnp.take_along_axis(index, place, axis=1)
