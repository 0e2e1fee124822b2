"""Rules for a parameter by its place in the tree: decay, learning rate, norms, freeze.

Parameters are {"backbone": {…}, "heads_NAME": {…}}. The leaves under "blocks" hold one tensor per
layer along a leading depth axis (`nn.scan`); every rule is about one tensor of one layer.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import KeyPath, keystr, tree_leaves_with_path, tree_map_with_path

BACKBONE = "backbone"
STACK = "blocks"  # the module whose leaves carry a leading depth axis from nn.scan
LAST_LAYER = "last_layer"  # the prototype layer of a projection head
FIXED = "fixed"  # never moves
REST = "rest"
FINAL_NORM = "norm"  # of the backbone, after the last block
PATCH_EMBED = "patch_embed"
TOKENS = ("cls_token", "pos_embed", "register_tokens", "mask_token")
EMBEDDINGS = (*TOKENS, PATCH_EMBED)  # modules before the first block


def is_stacked(path: KeyPath) -> bool:
    """Whether the leaf at `path` holds one tensor per layer along a leading depth axis."""
    return STACK in names(path)


def tensor_rank(path: KeyPath, leaf: jax.Array) -> int:
    """Number of dimensions of the leaf, not counting the depth axis of a stack."""
    return jnp.ndim(leaf) - is_stacked(path)


def tensor_norms(path: KeyPath, leaf: jax.Array) -> jax.Array:
    """L2 norm of each tensor in a leaf: one for an ordinary leaf, one per layer for a stacked one.

    Returns:
      float32 with as many dimensions as `leaf`, all of size 1 but for the depth axis of a stack,
      so that it broadcasts against the leaf.
    """
    axes = tuple(range(int(is_stacked(path)), leaf.ndim))
    return jnp.sqrt(jnp.sum(jnp.square(leaf.astype(jnp.float32)), axis=axes, keepdims=True))


def is_decayed(path: KeyPath, leaf: jax.Array) -> bool:
    """Whether weight decay applies: to all but 1-D tensors and biases.

    So also to tokens, positions, prototypes and their gains, but not to norms and LayerScale, as in
    both official codes.
    """
    return tensor_rank(path, leaf) != 1 and not names(path)[-1].endswith("bias")


def is_decayed_layer(path: KeyPath, leaf: jax.Array) -> bool:
    """As `is_decayed`, without tokens and positions (fine-tuning of BEiT and MAE)."""
    is_token = not set(names(path)).isdisjoint(TOKENS)
    return is_decayed(path, leaf) and not is_token


# Which tensors weight decay applies to: see `is_decayed` and `is_decayed_layer`, or all of them
# (MoCo v3's AdamW).
DECAYED: dict[str, Callable[[KeyPath, jax.Array], bool]] = {
    "matrices": is_decayed,
    "layers": is_decayed_layer,
    "all": lambda path, leaf: True,
}


def label_frozen(params: Any, fixed: Sequence[str] = ()) -> Any:
    """A tree of "last_layer" for the prototypes of all heads, "backbone", "fixed", and "rest".

    Args:
      params: parameters, or arrays of the same structure.
      fixed: names of parameters, or of modules, that are "fixed".

    Raises:
      ValueError: if there is no parameter of such a name.
    """
    known = {name for path, _ in tree_leaves_with_path(params) for name in names(path)}
    if not known.issuperset(fixed):
        raise ValueError(
            f"config.optimizer.fixed names {sorted(set(fixed) - known)}; parameters and modules: "
            f"{sorted(known)}"
        )

    def label(path: KeyPath, _: Any) -> str:
        if not set(names(path)).isdisjoint(fixed):
            return FIXED
        if LAST_LAYER in names(path):
            return LAST_LAYER
        return BACKBONE if names(path)[0] == BACKBONE else REST

    return tree_map_with_path(label, params)


def lr_multipliers(params: Any, layer_decay: float, patch_embed: float) -> Any:
    """Factors of the learning rate that fall from the last block to the first (BEiT, DINOv2).

    Args:
      params: parameters, or arrays of the same structure.
      layer_decay: factor from one block to the block before it; 1 for none.
      patch_embed: further factor of the patch embedding.

    Returns:
      A tree of float32 factors that broadcast against the leaves: layer_decay^(depth - i) in block
      i, layer_decay^(depth + 1) in front of the blocks, 1 in the final norm and the heads.

    Raises:
      ValueError: if the layers are to differ, but the backbone has no stack of blocks.
    """

    def is_block(path: KeyPath) -> bool:
        return is_stacked(path) and names(path)[0] == BACKBONE

    depths = [leaf.shape[0] for path, leaf in tree_leaves_with_path(params) if is_block(path)]
    if layer_decay != 1.0 and not depths:
        raise ValueError(
            f"optimizer.layer_decay ({layer_decay}) needs a backbone with a stack of blocks; use 1"
        )
    depth = depths[0] if depths else 0

    def factor(path: KeyPath, leaf: jax.Array) -> np.ndarray:
        if is_block(path):
            powers = layer_decay ** np.arange(depth, 0, -1, dtype=np.float64)
            return powers.reshape(-1, *[1] * (leaf.ndim - 1)).astype(np.float32)
        module, *rest = names(path)
        before_blocks = module == BACKBONE and rest[0] in EMBEDDINGS
        value = layer_decay ** (depth + 1) if before_blocks else 1.0
        return np.asarray(value * (patch_embed if PATCH_EMBED in rest else 1.0), np.float32)

    return tree_map_with_path(factor, params)


def names(path: KeyPath) -> list[str]:
    """The path of a leaf as plain names."""
    return keystr(path, simple=True, separator="/").split("/")
