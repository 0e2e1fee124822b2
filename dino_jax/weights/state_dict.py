"""Reads the tensors of a file of weights; nothing in the file is ever executed."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from etils import epath

from dino_jax.foreign.files import open_regular
from dino_jax.weights.moco_names import PREDICTOR
from dino_jax.weights.pickle_machine import RefusedError
from dino_jax.weights.safetensors_file import read_header, read_tensor
from dino_jax.weights.safetensors_shards import INDEX_SUFFIX, ShardedTensor, open_shards
from dino_jax.weights.suffixes import SUFFIXES
from dino_jax.weights.torch_file import StoredTensor, TorchFile

# Where training checkpoints keep networks: {"teacher": …}, {"model": {"teacher.…": …}}, ….
_WRAPPERS = re.compile(r"^((state_dict|model|module)\.)*")
_NETWORKS = re.compile(r"^(teacher|student|momentum_encoder|base_encoder)\.")
_OF_MOCO = {"momentum_encoder": "teacher", "base_encoder": "student"}  # which it publishes
_CENTERS = {"dino_loss.center": "dino", "ibot_patch_loss.center": "ibot"}
_MAX_DOTS, _MAX_NAME = 50, 10_000  # in a name; real ones have ten, and 200 characters
_MAX_VISITS = 1_000_000  # in a file; real ones have thousands
_NO_WEIGHTS = re.compile(r"^(optimizer|scheduler|lr_scheduler|scaler|fp16_scaler)\.")


@dataclasses.dataclass(frozen=True)
class SavedWeights:
    """The tensors of a file, under the names of the file without wrappers.

    Attributes:
      networks: networks by role, "teacher" or "student" of a training checkpoint, otherwise
        "weights".
      centers: running centers of objectives, by the name of the objective.
      left_out: tensors that are not weights, such as an optimizer's moments: their number by
        section.
      evaluated: the role whose network is published.
    """

    networks: dict[str, dict[str, np.ndarray]]
    centers: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    evaluated: str = "teacher"

    @property
    def main(self) -> str:
        """The role of the network to use: the one that is published, if it is there."""
        roles = (self.evaluated, "teacher", "weights", "student")
        return next(role for role in roles if role in self.networks)


def read_state_dict(path: epath.PathLike) -> dict[str, np.ndarray]:
    """Reads the tensors of a file of weights; of a training checkpoint, those of the teacher.

    Args:
      path: as in `read_weights`.

    Returns:
      The names of the file to arrays; bfloat16 and float16 stay as they are.

    Raises:
      OSError, ValueError: as in `read_weights`.
    """
    weights = read_weights(path)
    return weights.networks[weights.main]


def read_weights(path: epath.PathLike) -> SavedWeights:
    """Reads all weights of a file.

    A .pth is a pickle, which can run any program: it is read without executing anything, and
    refused if it holds more than tensors and plain containers (`pickle_machine`).

    Args:
      path: .safetensors, the index of several (model.safetensors.index.json), or .pth, .pt or .bin
        as torch.save writes them; local or gs://.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the suffix is unknown, or the file is damaged or holds anything other than
        tensors.
    """
    file = epath.Path(path).expanduser()
    if not file.name.endswith(SUFFIXES):
        raise ValueError(f"{file} is not a file of weights; known suffixes: {', '.join(SUFFIXES)}")
    if not file.is_file():
        raise FileNotFoundError(f"the file of weights {file} does not exist")
    if file.name.endswith(INDEX_SUFFIX):
        return _read_shards(file)
    with open_regular(file) as opened:
        try:
            if file.suffix == ".safetensors":
                tensors = read_header(opened)
                return _sort(tensors, partial(read_tensor, opened), file)
            torch_file = TorchFile(opened)
            return _sort(_flatten(torch_file.content), torch_file.array, file)
        except RefusedError as error:
            raise ValueError(f"{file} is not read: {error}") from error
        except MemoryError as error:
            size = opened.seek(0, 2)
            raise ValueError(f"{file} of {size:,} bytes needs more memory than there is") from error


def _read_shards(file: epath.Path) -> SavedWeights:
    with contextlib.ExitStack() as stack:
        try:
            return _sort(open_shards(file, stack), ShardedTensor.read, file)
        except RefusedError as error:
            raise ValueError(f"{file} is not read: {error}") from error


def _sort(
    tensors: Mapping[str, Any], read: Callable[[Any], np.ndarray], file: epath.Path
) -> SavedWeights:
    """Sorts named tensors into networks and the rest, and reads those that are weights."""
    networks: dict[str, dict[str, np.ndarray]] = {}
    predictor: dict[str, np.ndarray] = {}
    centers, left_out, evaluated = {}, {}, "teacher"
    _require_room(tensors)
    for full_name, tensor in tensors.items():
        name = _WRAPPERS.sub("", full_name)
        if name in _CENTERS:
            centers[_CENTERS[name]] = read(tensor).reshape(-1)
        elif match := _NO_WEIGHTS.match(name):
            left_out[match[1]] = left_out.get(match[1], 0) + 1
        elif name.startswith(PREDICTOR):
            predictor[name] = read(tensor)
        else:
            match = _NETWORKS.match(name)
            role = match[1] if match else "weights"
            if role in _OF_MOCO:
                role, evaluated = _OF_MOCO[role], "student"
            network = networks.setdefault(role, {})
            plain = _WRAPPERS.sub("", _NETWORKS.sub("", name))
            if plain in network:
                raise ValueError(f"{file} names {plain} twice, the second time as {full_name}")
            network[plain] = read(tensor)
    if predictor and evaluated == "student":
        networks["student"] |= predictor
    elif predictor:
        left_out[PREDICTOR.removesuffix(".")] = len(predictor)
    if not networks:
        raise ValueError(f"{file} holds no weights: it has no tensors under names")
    if len(networks) > 1 and "weights" in networks:
        names = "\n  ".join(sorted(networks["weights"]))
        raise ValueError(f"{file} holds tensors besides those of its networks:\n  {names}")
    return SavedWeights(networks, centers, left_out, evaluated)


def _require_room(tensors: Mapping[str, Any]) -> None:
    """Checks that the weights fit into the memory of this machine before any is read."""
    names = (name for name in tensors if not _NO_WEIGHTS.match(_WRAPPERS.sub("", name)))
    needed = sum(tensors[name].nbytes for name in names)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise RefusedError(f"its weights have {needed:,} bytes, this machine's memory {memory:,}")


def _flatten(content: Any) -> dict[str, StoredTensor]:
    """All tensors of nested dicts and lists, with dotted names.

    A pickle can name a container many times, even in itself: the number of visits is limited.
    """
    tensors: dict[str, StoredTensor] = {}
    waiting = [("", content)]
    for _ in range(_MAX_VISITS):
        if not waiting:
            return tensors
        name, value = waiting.pop()
        if isinstance(value, StoredTensor):
            tensors[name] = value
        elif isinstance(value, (dict, list, tuple)) and name.count(".") < _MAX_DOTS:
            items = list(value.items() if isinstance(value, dict) else enumerate(value))
            longest = max((len(key) for key, _ in items if isinstance(key, str | bytes)), default=0)
            if len(name) + longest > _MAX_NAME or len(waiting) + len(items) > _MAX_VISITS:
                break
            waiting += [(f"{name}.{key}" if name else str(key), x) for key, x in items[::-1]]
    raise RefusedError(f"its containers hold more than {_MAX_VISITS:,} values, or endless names")
