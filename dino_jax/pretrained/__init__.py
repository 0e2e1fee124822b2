"""Weights of other code bases, in and out."""

from dino_jax.pretrained.torch_names import from_torch, to_torch

__all__ = ["from_torch", "to_torch"]
