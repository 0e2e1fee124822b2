"""Reads model.safetensors.index.json: which .safetensors beside it holds which tensor."""

import contextlib
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from etils import epath

from dino_jax.foreign.files import open_regular
from dino_jax.foreign.json_text import read_json
from dino_jax.weights.pickle_machine import RefusedError
from dino_jax.weights.safetensors_file import MAX_HEADER_BYTES, Tensor, read_header, read_tensor

INDEX_SUFFIX = ".safetensors.index.json"
MOST_SHARDS = 1000


class ShardedTensor(NamedTuple):
    """A tensor, and the open file that holds it."""

    file: BinaryIO
    tensor: Tensor

    @property
    def nbytes(self) -> int:
        return self.tensor.nbytes

    def read(self) -> np.ndarray:
        """Its values, in its own dtype."""
        return read_tensor(self.file, self.tensor)


def open_shards(index: epath.Path, stack: contextlib.ExitStack) -> dict[str, ShardedTensor]:
    """Opens all files that an index names.

    Args:
      index: the index; its files lie beside it.
      stack: closes the files.

    Raises:
      OSError: if a file is missing.
      RefusedError: if the index is damaged, names a file elsewhere, or a file holds other tensors
        than it says.
    """
    places = _read_index(index)
    found: dict[str, ShardedTensor] = {}
    for name in sorted(set(places.values())):
        if not (index.parent / name).exists():
            raise FileNotFoundError(f"{index.parent / name} is missing, {index.name} names it")
        file = stack.enter_context(open_regular(index.parent / name))
        tensors = read_header(file)
        wanted = {tensor for tensor, place in places.items() if place == name}
        if wanted != tensors.keys():
            odd = sorted(wanted ^ tensors.keys())
            raise RefusedError(f"{name} and the index differ in {len(odd)} tensors like {odd[:3]}")
        found |= {tensor: ShardedTensor(file, tensors[tensor]) for tensor in wanted}
    return found


def _read_index(index: epath.Path) -> dict[str, str]:
    """File of every tensor."""
    try:
        content: Any = read_json(index, MAX_HEADER_BYTES)
    except ValueError as error:
        raise RefusedError(f"it is not JSON: {error}") from error
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise RefusedError("it has no weight_map")
    for name in places.values():
        plain = isinstance(name, str) and PurePosixPath(name).name == name
        if not plain or "\\" in name or not name.endswith(".safetensors"):
            raise RefusedError(f"it names {name!r:.100}, which is no .safetensors beside it")
    if len(set(places.values())) > MOST_SHARDS:
        raise RefusedError(f"it names more than {MOST_SHARDS:,} files")
    return places
