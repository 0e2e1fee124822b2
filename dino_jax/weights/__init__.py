"""Weights from and for other code: import and export, earlier runs, frozen teachers."""

from dino_jax.weights.state_dict import read_state_dict
from dino_jax.weights.torch_names import from_torch, split_state_dict, to_torch

__all__ = ["from_torch", "read_state_dict", "split_state_dict", "to_torch"]
