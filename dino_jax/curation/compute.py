"""Where rows are compared with centers: by NumPy, or by JAX on all devices of this process."""

import functools

from dino_jax.curation.nearest import Compare, numpy_compare

NUMPY, JAX = "numpy", "jax"
COMPUTES = (NUMPY, JAX)


def open_compare(compute: str) -> Compare:
    """The function for a name of `COMPUTES`."""
    return {NUMPY: lambda: numpy_compare, JAX: _on_devices}[compute]()


@functools.cache
def _on_devices() -> Compare:
    from dino_jax.curation.assign import MeshCompare, mesh_of_devices  # jax, for who wants it

    return MeshCompare(mesh_of_devices())
