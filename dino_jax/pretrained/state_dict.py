"""Reads the tensors of a PyTorch checkpoint file; nothing in the file is ever executed."""

import importlib
import pickle
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
from etils import epath

SUFFIXES = (".safetensors", ".pth", ".pt")
# Where training checkpoints keep the weights: the teacher's are the ones to use.
_NESTED = ("teacher", "state_dict", "model")


def read_state_dict(path: epath.PathLike) -> dict[str, np.ndarray]:
    """Reads all tensors of a file.

    A .pth is a pickle: it is read by torch, if that is installed, with `weights_only=True`, which
    refuses everything but tensors and plain containers. Of a training checkpoint that holds several
    networks the teacher is taken.

    Args:
      path: .safetensors (local or gs://), or .pth or .pt (local).

    Returns:
      Official names to arrays; bfloat16 and float16 stay what they are.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the suffix is unknown, the file is damaged or holds other things than tensors,
        or torch is needed and not installed.
    """
    file = epath.Path(path).expanduser()
    if file.suffix not in SUFFIXES:
        raise ValueError(f"{file} is no file of weights; known suffixes: {', '.join(SUFFIXES)}")
    if not file.exists():
        raise FileNotFoundError(f"the file of weights {file} does not exist")
    return _read_safetensors(file) if file.suffix == ".safetensors" else _read_torch(file)


def _read_safetensors(file: epath.Path) -> dict[str, np.ndarray]:
    try:
        tensors = safetensors.deserialize(file.read_bytes())
    except safetensors.SafetensorError as error:
        raise ValueError(f"{file} is no safetensors file, or damaged: {error}") from error
    return {name: _as_array(name, tensor, file) for name, tensor in tensors}


_SAFETENSORS_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.int64,  # the counts of BatchNorm
}


def _as_array(name: str, tensor: Mapping[str, Any], file: epath.Path) -> np.ndarray:
    dtype = tensor["dtype"]
    if dtype not in _SAFETENSORS_DTYPES:
        raise ValueError(
            f"{name} in {file} is stored as {dtype}; known: {sorted(_SAFETENSORS_DTYPES)}"
        )
    return np.frombuffer(tensor["data"], _SAFETENSORS_DTYPES[dtype]).reshape(tensor["shape"])


def _read_torch(file: epath.Path) -> dict[str, np.ndarray]:
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise ValueError(
            f"{file} is a PyTorch pickle, which is only read by torch: pip install torch "
            "--index-url https://download.pytorch.org/whl/cpu, or convert the file to .safetensors "
            "where torch is installed"
        ) from error
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{file} is damaged or holds more than tensors, which is not read because a pickle can "
            f"run any program. If you trust its source, save the weights alone with torch: {error}"
        ) from error
    tensors = _weights_in(content)
    if not tensors:
        raise ValueError(f"{file} holds no tensors under names")
    return {name: _from_tensor(tensor) for name, tensor in tensors.items()}


def _weights_in(content: Any) -> dict[str, Any]:
    """The innermost mapping of names to tensors."""
    while isinstance(content, Mapping):
        nested = [content[key] for key in _NESTED if isinstance(content.get(key), Mapping)]
        if not nested:
            return {name: value for name, value in content.items() if hasattr(value, "numpy")}
        content = nested[0]
    return {}


def _from_tensor(tensor: Any) -> np.ndarray:
    # NumPy has no bfloat16; float32 holds every value of it.
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
