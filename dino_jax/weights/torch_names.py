"""Official PyTorch names to our variables and back; NumPy in, NumPy out, no torch.

Official files hold a backbone ("blocks.0.attn.qkv.weight"), or a backbone with its heads
("backbone.…" and "head.…" or, in DINOv2, "dino_head.…" and "ibot_head.…"), each perhaps after
"module.". DINOv2 trains with chunks of blocks, which put the number of the chunk in front of the
number of the block. ResNets have the names of torchvision, ConvNeXts those of DINOv3. Our ViT
blocks are scanned, so the tensors of all blocks are stacked along a new first axis; linear weights
are transposed; a convolution goes from [out, in, h, w] to [h, w, in, out].
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

Variables = dict[str, Any]
Path = tuple[str, ...]


class Conversion(NamedTuple):
    """Both directions of one tensor's layout change; blocks apply it to one layer."""

    from_torch: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


SAME = Conversion(lambda x: x, lambda x: x)
LINEAR = Conversion(np.transpose, np.transpose)
CONVOLUTION = Conversion(
    lambda x: np.transpose(x, (2, 3, 1, 0)), lambda x: np.transpose(x, (3, 2, 0, 1))
)

_NORM_LEAVES = {
    "scale": ("weight", SAME),
    "bias": ("bias", SAME),
    "mean": ("running_mean", SAME),
    "var": ("running_var", SAME),
}
_LINEAR_LEAVES = {"kernel": ("weight", LINEAR), "bias": ("bias", SAME)}
_BLOCK_MODULES = {
    ("norm1",): ("norm1", _NORM_LEAVES),
    ("norm2",): ("norm2", _NORM_LEAVES),
    ("attention", "qkv"): ("attn.qkv", _LINEAR_LEAVES),
    ("attention", "proj"): ("attn.proj", _LINEAR_LEAVES),
    ("mlp", "fc1"): ("mlp.fc1", _LINEAR_LEAVES),
    ("mlp", "fc2"): ("mlp.fc2", _LINEAR_LEAVES),
    ("mlp", "w12"): ("mlp.w12", _LINEAR_LEAVES),
    ("mlp", "w3"): ("mlp.w3", _LINEAR_LEAVES),
    ("layer_scale1",): ("ls1", {"gamma": ("gamma", SAME)}),
    ("layer_scale2",): ("ls2", {"gamma": ("gamma", SAME)}),
}
# MoCo v3's stem of convolutions is one sequence: convolution, BatchNorm and ReLU four times.
_STEM_TENSORS = {
    **{
        ("patch_embed", f"conv_{i}", "kernel"): (f"patch_embed.proj.{3 * i}.weight", CONVOLUTION)
        for i in range(5)
    },
    **{
        ("patch_embed", f"norm_{i}", ours): (f"patch_embed.proj.{3 * i + 1}.{theirs}", SAME)
        for i in range(4)
        for ours, (theirs, _) in _NORM_LEAVES.items()
    },
    ("patch_embed", "conv_4", "bias"): ("patch_embed.proj.12.bias", SAME),
}
_BACKBONE_TENSORS = {
    ("cls_token",): ("cls_token", SAME),
    ("pos_embed",): ("pos_embed", SAME),
    ("register_tokens",): ("register_tokens", SAME),
    ("mask_token",): ("mask_token", SAME),
    ("patch_embed", "kernel"): ("patch_embed.proj.weight", CONVOLUTION),
    ("patch_embed", "bias"): ("patch_embed.proj.bias", SAME),
    **_STEM_TENSORS,
    **{
        (norm, ours): (f"{norm}.{theirs}", SAME)
        for norm in ("norm", "cls_norm", "local_cls_norm")
        for ours, theirs in (("scale", "weight"), ("bias", "bias"))
    },
}
_DECODER_TENSORS = {
    **{(x, "kernel"): (f"{x}.weight", LINEAR) for x in ("embed", "predict")},
    **{(x, "bias"): (f"{x}.bias", SAME) for x in ("embed", "predict", "norm")},
    ("norm", "scale"): ("norm.weight", SAME),
    ("mask_token",): ("mask_token", SAME),
    ("pos_embed",): ("pos_embed", SAME),
}
_LAST_LAYER = {
    "prototypes": "last_layer.weight_v",
    "gain": "last_layer.weight_g",
    "weights": "last_layer.weight",  # DINOv3
}
_RESNET_MODULE = re.compile(r"(layer\d+_\d+/)?(conv\d|bn\d|downsample_[01])")
_MLP_MODULE = re.compile(r"(linear|norm)_\d+")
_CONVOLUTION_LEAVES = {"kernel": ("weight", CONVOLUTION)}
# ConvNeXts have the names of DINOv3.
_CONVNEXT_PLACE = re.compile(r"(downsample|stage)_(\d+)_(\d+)")
_CONVNEXT_PLACES = {"downsample": "downsample_layers", "stage": "stages"}
# Not tensors of the model: torch counts batches, our running statistics need no count.
_IGNORED = re.compile(r"num_batches_tracked$")


def from_torch(state_dict: Mapping[str, np.ndarray], like: Variables) -> Variables:
    """Turns tensors under official names into our variables.

    Args:
      state_dict: official names to float arrays, with or without "module." and "backbone." in
        front. A head named "dino" is "dino_head." there, or "head." if it is the only one.
      like: our variables {"params": …[, "batch_stats": …]} or their `jax.ShapeDtypeStruct`s, as
        `jax.eval_shape(partial(network.init, method="init_all"), key, images)` returns them. A
        network without heads takes a backbone file. Only names and shapes are used.

    Returns:
      Variables of the structure of `like`, float32 NumPy arrays.

    Raises:
      ValueError: if a tensor is missing, unused or of another shape; the message lists all of them.
    """
    wanted: dict[Path, Any] = flatten_dict(like)
    tensors, problems, used, result = {}, [], set(), {}
    for name, value in state_dict.items():
        plain = _plain_name(name, wanted)
        if plain in tensors:
            problems.append(f"twice {plain}: {name} names it again")
        if not _IGNORED.search(name):
            tensors[plain] = np.asarray(value)
    for path, leaf in wanted.items():
        names, conversion = _torch_tensors(path, leaf.shape, wanted)
        missing = [name for name in names if name not in tensors]
        used.update(names)
        if missing:
            problems += [f"missing {name}" for name in missing]
            continue
        shape = leaf.shape[1:] if _is_block(path) else leaf.shape
        wanted_shape = conversion.to_torch(np.empty(shape, bool)).shape
        wrong = [
            f"shape of {name}: the file has {tensors[name].shape}, the network {wanted_shape}"
            for name in names
            if tensors[name].shape != wanted_shape
        ]
        problems += wrong
        if not wrong:
            parts = [conversion.from_torch(tensors[name]) for name in names]
            stacked = np.stack(parts) if _is_block(path) else parts[0]
            result[path] = np.array(stacked, dtype=np.float32)
    fixed = _fixed_gains(tensors, wanted)
    problems += [
        f"{name} is not 1, but the network does not train gains: set heads.*.train_gain=True"
        for name in fixed
        if not np.allclose(tensors[name], 1.0, rtol=0, atol=1e-5)
    ]
    problems += [f"unused {name}" for name in sorted(set(tensors) - used - set(fixed))]
    if problems:
        raise ValueError(
            f"the state dict ({len(tensors)} tensors) does not fit the network "
            f"({len(wanted)} variables):\n  " + "\n  ".join(problems)
        )
    return unflatten_dict(result)


def to_torch(variables: Variables) -> dict[str, np.ndarray]:
    """Inverse of `from_torch`: arrays in torch's layouts under "backbone.…" and "head.…".

    Several heads are "dino_head.…" and so on. A head whose gains are not trained gets
    weight_g = 1, as in the official checkpoints.
    """
    leaves: dict[Path, Any] = flatten_dict(jax.device_get(variables))
    state_dict = {}
    for path, leaf in leaves.items():
        names, conversion = _torch_tensors(path, leaf.shape, leaves)
        layers = leaf if _is_block(path) else [leaf]
        for name, layer in zip(names, layers, strict=True):
            state_dict[name] = np.ascontiguousarray(conversion.to_torch(np.asarray(layer)))
        if path[-1] == "prototypes" and (*path[:-1], "gain") not in leaves:
            gain = names[0].replace("weight_v", "weight_g")
            state_dict[gain] = np.ones((leaf.shape[0], 1), np.float32)
    return state_dict


def heads_without_names(variables: Variables) -> list[str]:
    """Our heads that the official codes lack: those without prototypes that are no decoder."""
    leaves: dict[Path, Any] = flatten_dict(variables)
    parts = {name: f"heads_{name}" for name in _heads(leaves)}
    return [
        name
        for name, part in parts.items()
        if not (_has_names(part, leaves) or _is_decoder(part, leaves))
    ]


def split_state_dict(
    state_dict: Mapping[str, np.ndarray], like: Variables
) -> dict[str, dict[str, np.ndarray]]:
    """The tensors of a file by the part of our network that they belong to.

    Args:
      state_dict: as `from_torch` takes it.
      like: as in `from_torch`; names the heads.

    Returns:
      {"backbone": …, "heads_dino": …} with the names of the file, ready for `from_torch` with a
      `like` of that part alone. A head that our network lacks is listed under its name in the file,
      such as "ibot_head". The "head." of a file with one head is our only one, or "dino".
    """
    heads = _heads(flatten_dict(like))
    only_head = heads[0] if len(heads) == 1 else "dino"
    ours = {f"{head}_head": f"heads_{head}" for head in heads} | {"backbone": "backbone"}
    if only_head in heads:
        ours["head"] = f"heads_{only_head}"
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, value in state_dict.items():
        prefix = _plain_name(name, {}).partition(".")[0]
        parts.setdefault(ours.get(prefix, prefix), {})[name] = value
    return parts


def _plain_name(name: str, tree: Mapping[Path, Any]) -> str:
    """Official name with exactly one prefix: "backbone." or that of a head of our variables."""
    name = name.removeprefix("module.")
    if re.match(r"(mlp|last_layer)\.", name):
        name = f"head.{name}"
    elif not re.match(r"(backbone|(\w+_)?head)\.", name):
        name = f"backbone.{name}"
    for head in _heads(tree):
        name = re.sub(rf"^{head}_head\.", f"{_head_prefix(head, tree)}.", name)
    return re.sub(r"\.blocks\.\d+\.(\d+)\.", r".blocks.\1.", name)  # without the chunk


def _heads(tree: Mapping[Path, Any]) -> list[str]:
    """Names of our heads."""
    return sorted({path[1].removeprefix("heads_") for path in tree if _is_head(path)})


def _head_prefix(head: str, tree: Mapping[Path, Any]) -> str:
    return "head" if len(_heads(tree)) == 1 else f"{head}_head"


def _is_head(path: Path) -> bool:
    return path[1].startswith("heads_")


def _is_block(path: Path) -> bool:
    return "blocks" in path


def _torch_tensors(path: Path, shape: tuple[int, ...], tree: Mapping[Path, Any]):
    """The official names of one variable (one per layer of a stack) and its conversion."""
    _, part, *rest = path
    prefix = _head_prefix(part.removeprefix("heads_"), tree) if _is_head(path) else part
    if rest[0] == "blocks":
        module, leaves = _lookup(_BLOCK_MODULES, tuple(rest[1:-1]), path)
        leaf, conversion = _lookup(leaves, rest[-1], path)
        return [f"{prefix}.blocks.{i}.{module}.{leaf}" for i in range(shape[0])], conversion
    if _is_decoder(part, tree):
        name, conversion = _lookup(_DECODER_TENSORS, tuple(rest), path)
        return [f"{prefix}.{name}"], conversion
    if part == "backbone" and _RESNET_MODULE.fullmatch("/".join(rest[:-1])):
        name, conversion = _resnet_tensor(rest, path)
        return [f"backbone.{name}"], conversion
    if part == "backbone" and _CONVNEXT_PLACE.fullmatch(rest[0]):
        name, conversion = _convnext_tensor(rest, path, len(shape))
        return [f"backbone.{name}"], conversion
    if part == "backbone":
        name, conversion = _lookup(_BACKBONE_TENSORS, tuple(rest), path)
        return [f"backbone.{name}"], conversion
    if _is_head(path):
        name, conversion = _head_tensor(part, rest, path, tree)
        return [f"{prefix}.{name}"], conversion
    raise ValueError(f"no official name is known for {'/'.join(path)}")


def _resnet_tensor(rest: list[str], path: Path):
    *modules, leaf = rest
    is_convolution = modules[-1].startswith("conv") or modules[-1] == "downsample_0"
    leaves = _CONVOLUTION_LEAVES if is_convolution else _NORM_LEAVES
    leaf_name, conversion = _lookup(leaves, leaf, path)
    names = [module.replace("_", ".") for module in modules]
    return ".".join([*names, leaf_name]), conversion


def _convnext_tensor(rest: list[str], path: Path, rank: int):
    place, *modules, leaf = rest
    kind, stage, index = place.split("_")
    if leaf == "gamma":
        name, conversion = leaf, SAME
    elif leaf == "kernel":
        name, conversion = "weight", CONVOLUTION if rank == 4 else LINEAR
    else:
        name, conversion = _lookup(_NORM_LEAVES, leaf, path)
    return ".".join([_CONVNEXT_PLACES[kind], stage, index, *modules, name]), conversion


def _head_tensor(head: str, rest: list[str], path: Path, tree: Mapping[Path, Any]):
    module, leaf = rest[0], rest[-1]
    if not _has_names(head, tree):
        if not _MLP_MODULE.fullmatch(module):
            raise ValueError(f"no official name is known for {'/'.join(path)}: no head of DINO's")
        return _mlp_tensor(head, module, leaf, path, tree)
    if module == "last_layer":
        return _LAST_LAYER[leaf], SAME
    kind, index = module.split("_")
    siblings = {p[2] for p in tree if p[:2] == ("params", head)}
    leaf_name, conversion = _lookup(
        _LINEAR_LEAVES if kind == "linear" else _NORM_LEAVES, leaf, path
    )
    if not any(name.startswith("linear_") and name != "linear_0" for name in siblings):
        return f"mlp.{leaf_name}", conversion  # there, a single layer is not a sequence
    # In torch's sequence each hidden layer is followed by its BatchNorm, if any, and a GELU.
    stride = 3 if "norm_0" in siblings else 2
    position = int(index) * stride + (kind == "norm")
    return f"mlp.{position}.{leaf_name}", conversion


def _mlp_tensor(head: str, module: str, leaf: str, path: Path, tree: Mapping[Path, Any]):
    """Of a head of MoCo v3: linear layers, BatchNorms and ReLUs in one sequence."""
    kind, index = module.split("_")
    leaves = _LINEAR_LEAVES if kind == "linear" else _NORM_LEAVES
    leaf_name, conversion = _lookup(leaves, leaf, path)
    stride = 3 if any(p[1:3] == (head, "norm_0") for p in tree) else 2
    return f"{int(index) * stride + (kind == 'norm')}.{leaf_name}", conversion


def _is_decoder(part: str, tree: Mapping[Path, Any]) -> bool:
    return part != "backbone" and any(path[1:3] == (part, "blocks") for path in tree)


def _has_names(head: str, tree: Mapping[Path, Any]) -> bool:
    return any(path[1:3] == (head, "last_layer") for path in tree)


def _fixed_gains(tensors: Mapping[str, np.ndarray], wanted: Mapping[Path, Any]) -> list[str]:
    """Gains in the file that our variables do not hold because they stay at 1."""
    fixed = [
        f"{_head_prefix(head, wanted)}.last_layer.weight_g"
        for head in _heads(wanted)
        if ("params", f"heads_{head}", "last_layer", "gain") not in wanted
    ]
    return [name for name in fixed if name in tensors]


def _lookup(table, key, path: Path):
    if key not in table:
        raise ValueError(f"no official name is known for {'/'.join(path)}")
    return table[key]
