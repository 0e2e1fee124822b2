"""Assignment of rows to centers as one pure JAX function, over a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dino_jax.curation.nearest import Centers

AXIS = "rows"
FEWEST = 64  # rows of a device, so that few shapes are compiled


def assign(rows: jax.Array, centers: jax.Array, halves: jax.Array) -> tuple[jax.Array, ...]:
    """The nearest center of each row and how sure it is: one product of matrices and two maxima.

    Args:
      rows: [n, d] float32.
      centers: [K, d] float32.
      halves: [K] float32, |c|^2 / 2.

    Returns:
      [n] int32 nearest center, [n] float32 its score x.c - |c|^2 / 2, and [n] that of the second.
    """
    # In full float32 on every device: `nearest.doubt` is a bound for this.
    made = jnp.matmul(rows, centers.T, precision=jax.lax.Precision.HIGHEST) - halves
    found = jnp.argmax(made, axis=1).astype(jnp.int32)
    others = jnp.where(jnp.arange(len(centers)) == found[:, None], -jnp.inf, made)
    return found, made.max(axis=1), others.max(axis=1)


def mesh_of_devices() -> Mesh:
    """All devices of this process in a row."""
    return Mesh(np.array(jax.local_devices()), (AXIS,))


class MeshCompare:
    """`nearest.Compare` on a mesh: each device takes its share of the rows, and all centers."""

    def __init__(self, mesh: Mesh):
        """Compiles at the first call, and again for other shapes.

        Args:
          mesh: of the axis `AXIS`.
        """
        self._devices = mesh.size
        self._rows = NamedSharding(mesh, PartitionSpec(AXIS))
        self._whole = NamedSharding(mesh, PartitionSpec())
        self._assign = jax.jit(
            assign, in_shardings=(self._rows, self._whole, self._whole), out_shardings=self._rows
        )
        self._centers: Centers | None = None
        self._placed: tuple[jax.Array, jax.Array] | None = None

    def __call__(
        self, rows: np.ndarray, centers: Centers
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Compares a tile; see `nearest.Compare`."""
        if self._placed is None or self._centers is not centers:
            self._centers = centers
            placed = jax.device_put((centers.single, centers.single_halves), self._whole)
            self._placed = (placed[0], placed[1])
        share = max(FEWEST, 1 << (-(-len(rows) // self._devices) - 1).bit_length())
        full = np.zeros((self._devices * share, rows.shape[1]), np.float32)
        full[: len(rows)] = rows
        made = self._assign(jax.device_put(full, self._rows), *self._placed)
        found, first, second = (np.array(one)[: len(rows)] for one in made)
        return found, first, second
