"""MoCo v3's official names and our variables, for tests."""

import numpy as np

from dino_jax.weights.torch_names import from_torch, to_torch

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
STATISTICS = {"mean": "running_mean", "var": "running_var"}


def head_names(tree):
    """(our path, official name, whether to transpose) of an MLP head's collections."""
    for kind, modules in tree.items():
        for module, leaves in modules.items():
            what, index = module.split("_")
            number = 3 * int(index) + (what == "norm")
            for leaf in leaves:
                official = (STATISTICS if kind == "batch_stats" else LEAVES)[leaf]
                yield (kind, module, leaf), f"{number}.{official}", leaf == "kernel"


def part(variables, module):
    return {kind: tree[module] for kind, tree in variables.items() if module in tree}


def head_to_torch(tree):
    return {
        name: np.asarray(tree[kind][module][leaf].T if turn else tree[kind][module][leaf])
        for (kind, module, leaf), name, turn in head_names(tree)
    }


def encoder_to_torch(variables):
    """ "cls_token", …, "head.0.weight", … of the backbone and the projector."""
    backbone = {kind: {"backbone": t} for kind, t in part(variables, "backbone").items()}
    named = {k.removeprefix("backbone."): v for k, v in to_torch(backbone).items()}
    head = head_to_torch(part(variables, "heads_projector"))
    return named | {f"head.{name}": value for name, value in head.items()}


def fill(variables, encoder, predictor=None):
    """Variables of the structure of `variables` with the tensors of an encoder and a predictor."""
    backbone = {kind: {"backbone": t} for kind, t in part(variables, "backbone").items()}
    plain = {k: v for k, v in encoder.items() if not k.startswith("head.")}
    filled = {kind: dict(tree) for kind, tree in from_torch(plain, backbone).items()}
    heads = {"heads_projector": {k[5:]: v for k, v in encoder.items() if k.startswith("head.")}}
    if predictor is not None:
        heads["heads_predictor"] = predictor
    for head, tensors in heads.items():
        for (kind, module, leaf), name, turn in head_names(part(variables, head)):
            value = np.asarray(tensors[name], np.float32)
            place = filled.setdefault(kind, {}).setdefault(head, {}).setdefault(module, {})
            place[leaf] = value.T if turn else value
    return filled
