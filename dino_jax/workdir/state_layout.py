"""How a state lies in a checkpoint, and whether a stored one fits a run.

The networks called student and teacher lie beside the other fields, as in version 0.1, and those of
other roles in "others".
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

ON_TOP = ("student", "teacher")  # networks beside the other fields; the rest are in OTHERS
OTHERS = "others"
MAX_DIFFERENCES = 20  # lines of a tree comparison that are shown

PyTree = Any


class TreeMismatchError(Exception):
    """The checkpoint is sound but belongs to another model, optimizer or set of objectives."""


def to_stored(state: Any) -> dict[str, PyTree]:
    """A TrainState, or a mapping of some of its fields, in the layout on disk."""
    if isinstance(state, Mapping):
        fields = dict(state)
    else:
        fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    networks = fields.pop("networks", {})
    on_top = {name: networks[name] for name in ON_TOP if name in networks}
    others = {name: tree for name, tree in networks.items() if name not in ON_TOP}
    return fields | on_top | ({OTHERS: others} if others else {})


def from_stored(stored: dict[str, PyTree], like: Any) -> Any:
    """Inverse of `to_stored`: a state like `like`, abstract or not."""
    networks = {name: stored[name] for name in ON_TOP if name in stored} | stored.get(OTHERS, {})
    fields = {name: tree for name, tree in stored.items() if name not in (*ON_TOP, OTHERS)}
    fields |= {"networks": networks} if networks else {}
    return fields if isinstance(like, Mapping) else dataclasses.replace(like, **fields)


def place_of(role: str) -> tuple[str, ...]:
    """Path of a role's network in a stored state."""
    return (role,) if role in ON_TOP else (OTHERS, role)


def part_of(tree: Any, place: tuple[str, ...]) -> PyTree:
    """A part of a tree, {} if it has none."""
    for name in place:
        tree = (tree or {}).get(name, {})
    return tree


def as_part(part: PyTree, place: tuple[str, ...]) -> PyTree:
    """A tree with nothing but `part` in its place."""
    for name in reversed(place):
        part = {name: part}
    return part


def require_same_tree(stored: PyTree, wanted: PyTree) -> None:
    """Raises TreeMismatchError with a line for each array that is missing, new or different."""
    ours, theirs = describe_tree(wanted), describe_tree(stored)
    lines = [
        f"  {path}: checkpoint has {theirs.get(path, 'nothing')}, "
        f"this run has {ours.get(path, 'nothing')}"
        for path in sorted(ours.keys() | theirs.keys())
        if ours.get(path) != theirs.get(path)
    ]
    if lines:
        hidden = len(lines) - MAX_DIFFERENCES
        more = [f"  … and {hidden} more"] if hidden > 0 else []
        raise TreeMismatchError(
            "is of another model, optimizer or set of objectives; use the config it was trained "
            "with, or another workdir:\n" + "\n".join(lines[:MAX_DIFFERENCES] + more)
        )


def describe_tree(tree: PyTree) -> dict[str, str]:
    """Maps each "a/b/0/c" of a tree to dtype and shape, "empty" for a subtree without arrays.

    Dataclasses, named tuples and dicts give the same names, as they do in a checkpoint.
    """
    return {path: _kind(x) for path, x in flatten_tree(tree).items()}


def flatten_tree(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree, and its subtrees without any, by paths such as "a/b/0/c"."""
    leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: not jax.tree.leaves(x))[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}


def _kind(leaf: Any) -> str:
    if not hasattr(leaf, "shape"):
        return "empty"
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):  # stored as its uint32 words
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
