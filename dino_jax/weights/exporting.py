"""A file of weights under the names of another code base, read back and checked."""

import dataclasses
import importlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict
from safetensors.numpy import save

from dino_jax.data.decoding import Decoding
from dino_jax.models.backbone import Backbone
from dino_jax.models.build import build_network
from dino_jax.models.decoder import Decoder
from dino_jax.models.network import Network
from dino_jax.models.vit import as_vit
from dino_jax.weights import dinov3_license
from dino_jax.weights.dinov3_export import is_of_dinov3, rename_dinov3, shown
from dino_jax.weights.finished_run import read_run
from dino_jax.weights.huggingface_config import choose_class, make_config
from dino_jax.weights.huggingface_names import to_huggingface
from dino_jax.weights.mae_huggingface import make_vit_mae_config, to_vit_mae
from dino_jax.weights.mae_names import HEAD, to_mae
from dino_jax.weights.provenance import (
    beside,
    data_of,
    fingerprint,
    sources_of,
    write_provenance,
)
from dino_jax.weights.suffixes import SUFFIXES
from dino_jax.weights.torch_names import Path, Variables, heads_without_names, to_torch
from dino_jax.weights.weights_file import BACKBONE, read_network
from dino_jax.workdir import checkpointing
from dino_jax.workdir.layout import CONFIG_JSON
from dino_jax.workdir.paths import absolute_path, folder_of_results, write_atomically

DECODER = "decoder"  # name of the head that a file of MAE has
TOLERANCE = 1e-5  # largest deviation of the checked features, which are of order 1


class Trained(NamedTuple):
    """Content of an export: a network, its float32 variables, their license and origin."""

    title: str
    network: Network
    variables: Variables
    licence: str
    decoding: Decoding
    origin: dict[str, Any]  # "sources" and "data" of its provenance


def export_weights(
    model: str, out: str, names: str, heads: bool = False, step: int | None = None
) -> list[str]:
    """Writes a network under the names of another code base and checks what was written.

    Args:
      model: workdir of a run, folder of an import, or file of weights.
      out: .safetensors or .pth; for "huggingface" also a folder.
      names: one of `export_weights.NAMES`.
      heads: whether to write the projection heads, too; "official" only.
      step: checkpoint of a workdir; None: the newest.

    Returns:
      Lines that say what was written and checked.

    Raises:
      OSError: if there is no such model, or the file cannot be written.
      ValueError: if the file exists or has an unknown suffix, or the names cannot express the
        network.
    """
    target = _target(out, names)
    trained = open_trained(model, step)
    nameless = heads_without_names(trained.variables) if heads else []
    exported = sorted(set(trained.network.heads) - set(nameless)) if heads else []
    decoders = [name for name in exported if isinstance(trained.network.heads[name], Decoder)]
    has_names = names == "official" or (names == "huggingface" and decoders)
    if heads and not (has_names and exported):
        raise ValueError(f"--heads: {trained.title} has no heads for which there are {names} names")
    if decoders and len(exported) > 1:
        raise ValueError(
            f"--heads: {trained.title} has the heads {exported}; files of MAE have a decoder alone"
        )
    trained = _with_heads(trained, exported)
    if decoders:
        trained = _with_decoder(trained, *decoders)
    tensors, config, lines = _rename(trained, names)
    weights = fingerprint(trained.variables)
    written = [target]
    with folder_of_results(target.parent):
        try:
            _write(tensors, target, trained.licence)
            if config:
                written.append(target.parent / CONFIG_JSON)
                write_atomically(written[-1], json.dumps(config, indent=2) + "\n")
            checked = _check(trained, target, names)
            record = write_provenance(
                [target], trained.title, weights, trained.licence, trained.origin
            )
        except ValueError:
            for file in written:
                file.unlink(missing_ok=True)
            raise
    return [
        f"{trained.title}: {len(tensors)} tensors under {names} names in {target}",
        *(f"left out: head {name}, {names} names have no such head" for name in nameless),
        *lines,
        *checked,
        f"license of the weights: {trained.licence}",
        f"provenance: {record}",
    ]


def _target(out: str, names: str) -> epath.Path:
    path = absolute_path(out)
    if names == "huggingface" and not path.suffix:
        path = path / "model.safetensors"
    if path.suffix not in (".safetensors", ".pth"):
        raise ValueError(f"--out={out} must end in .safetensors or .pth")
    written = [path, beside(path)]
    written += [path.parent / CONFIG_JSON] if names == "huggingface" else []
    for file in written:
        if file.exists():
            raise ValueError(f"--out={out}: {file} already exists; choose a new place")
    return path


def open_trained(model: str, step: int | None) -> Trained:
    """Reads the network of a workdir, of a folder of an import, or of a file of weights."""
    if model.endswith(SUFFIXES):
        read = read_network(model)
        decoding = Decoding(channels=read.network.backbone.in_channels)
        origin = {"sources": sources_of(model, None), "data": {}}
        return Trained(model, read.network, read.variables, read.licence, decoding, origin)
    workdir = absolute_path(model)
    run = read_run(workdir)
    variables, step = checkpointing.read_network(workdir, step)
    network = build_network(dataclasses.replace(run.network, dtype="float32"))
    title = f"{run.role} of step {step} of {workdir}"
    origin = {"sources": sources_of(model, run.config), "data": data_of(workdir)}
    licence = _licence(run.config, origin["sources"])
    return Trained(title, network, variables, licence, run.decoding, origin)


def _with_heads(trained: Trained, heads: list[str]) -> Trained:
    """The backbone and some of the heads."""
    parts = [BACKBONE, *(f"heads_{name}" for name in heads)]
    variables = {
        kind: {part: tree[part] for part in parts if part in tree}
        for kind, tree in trained.variables.items()
    }
    network = trained.network.clone(heads={name: trained.network.heads[name] for name in heads})
    return trained._replace(
        network=network, variables={kind: tree for kind, tree in variables.items() if tree}
    )


def _with_decoder(trained: Trained, name: str) -> Trained:
    """The backbone and its decoder, under the name that a decoder has in files."""
    params = dict(trained.variables["params"])
    params[f"heads_{DECODER}"] = params.pop(f"heads_{name}")
    network = trained.network.clone(heads={DECODER: trained.network.heads[name]})
    return trained._replace(network=network, variables={**trained.variables, "params": params})


def _licence(config: dict[str, Any], came_from: Sequence[dict] = ()) -> str:
    """License of an import, or the one that a run's own config and its sources imply."""
    if "imported" in config:
        return config["imported"]["licence"]
    if place := dinov3_license.find_in(came_from):
        return f"{dinov3_license.LICENCE} (of {place}, of which this model is made)"
    sources = [config.get("init_from", {}), *config.get("roles", {}).values()]
    given = [path for source in sources if (path := source.get("path"))]
    return "yours to choose" + (f", but respect that of {' and '.join(given)}" if given else "")


def _rename(trained: Trained, names: str):
    """Tensors, a config.json or None, and lines about settings that the names do not carry."""
    backbone = trained.network.backbone
    try:
        tensors = to_torch(trained.variables)
    except ValueError as error:
        kind = type(backbone).__name__
        raise ValueError(
            f"a {kind} is not written under the names of another code base ({error}); "
            "--format=onnx or --format=stablehlo makes a program of it"
        ) from error
    decoder = trained.network.heads.get(DECODER)
    if isinstance(decoder, Decoder):
        tensors = {
            f"{HEAD}{name.removeprefix('head.')}" if name.startswith("head.") else name: x
            for name, x in tensors.items()
        }
    if isinstance(decoder, Decoder) or len(trained.variables["params"]) == 1:  # as released
        tensors = {name.removeprefix(f"{BACKBONE}."): x for name, x in tensors.items()}
    if is_of_dinov3(backbone):
        return rename_dinov3(tensors, backbone, names)
    if names == "timm":
        raise ValueError("timm's names are written for networks of DINOv3; use --names=official")
    if names == "official":
        return to_mae(tensors), None, []
    vit = as_vit(trained.network.backbone, "--names=huggingface")
    if isinstance(decoder, Decoder):
        config, lines = make_vit_mae_config(vit, decoder)
        return to_vit_mae(tensors), config, lines
    class_name = choose_class(vit)
    config, lines = make_config(vit, class_name)
    return to_huggingface(tensors, class_name), config, lines


def _write(tensors: dict[str, np.ndarray], target: epath.Path, licence: str) -> None:
    if target.suffix == ".safetensors":
        # transformers needs to be told that the layouts are those of torch ("pt").
        target.write_bytes(save(tensors, metadata={"format": "pt", "licence": licence}))
        return
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError as error:
        raise ValueError(
            "a .pth is written by torch, which is not installed; give --out a .safetensors"
        ) from error
    with target.open("wb") as file:
        torch.save({name: torch.tensor(x) for name, x in tensors.items()}, file)


def _check(trained: Trained, target: epath.Path, names: str) -> list[str]:
    """Reads the file like an import and compares numbers and features of random images.

    Raises:
      ValueError: if a number differs, or the features of the same network do.
    """
    backbone: Backbone = trained.network.backbone
    again = read_network(target, num_heads=backbone.implicit.num_heads)
    ours: dict[Path, Any] = flatten_dict(shown(trained.variables, backbone, names))
    theirs: dict[Path, Any] = flatten_dict(again.variables)
    wrong = ours.keys() ^ theirs.keys()
    wrong |= {x for x in ours.keys() & theirs.keys() if not np.array_equal(ours[x], theirs[x])}
    if wrong:
        raise ValueError(f"{target} does not read back as it was written: {sorted(wrong)}")
    height, width = backbone.implicit.image_size or (64, 64)
    shape = (2, height, width, backbone.in_channels)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    pairs = [jax.jit(x.network.apply)(x.variables, images) for x in (trained, again)]
    deviation = max(float(jnp.abs(pairs[0][key] - pairs[1][key]).max()) for key in pairs[0])
    lines = [
        "checked: read again, every number is the same, features of random images differ by "
        f"{deviation:.1e} at most"
    ]
    for name in ("norm_epsilon", "rope"):
        ours, theirs = (getattr(x.network.backbone.implicit, name) for x in (trained, again))
        if ours != theirs:
            lines.append(
                f"note: this model has {name} {ours}, the code with these names {theirs}: that is "
                "the difference"
            )
    if len(lines) > 1:
        return lines
    if not deviation <= TOLERANCE:
        raise ValueError(f"features of {target} differ by {deviation:.1e} from those of the model")
    return lines
