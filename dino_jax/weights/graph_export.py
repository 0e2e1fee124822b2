"""A trained backbone as a program that runs without us: ONNX, or StableHLO of `jax.export`.

Both take images [B, H, W, 3] uint8, with any B and the H and W that were asked for, and give the
features of `dino_jax.load(MODEL)(images)` by name: "cls" [B, D], "patches" [B, N, D] and so on.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

import dino_jax
from dino_jax.models.backbone import Features
from dino_jax.weights.exporting import Trained, open_trained
from dino_jax.weights.onnx.convert import INPUT, to_onnx
from dino_jax.workdir.paths import absolute_path, folder_of_results, written_whole

TOLERANCE = 1e-4  # largest deviation of a feature, over the largest feature or 1
PLATFORMS = ("cpu", "cuda", "tpu")  # of StableHLO
MAX_ONNX_BYTES = 2**31 - 1  # of a protocol buffer
CHECKED = (1, 3)  # sizes of the batches that are compared

Run = Callable[[np.ndarray], dict[str, np.ndarray]]


def export_graph(
    model: str,
    out: str,
    file_format: str,
    image_size: tuple[int, int] | None = None,
    step: int | None = None,
) -> list[str]:
    """Writes a backbone as a program, reads the file back, runs it and compares the features.

    Args:
      model: workdir of a run, folder of an import, or file of weights.
      out: new file, .onnx or .stablehlo as the format.
      file_format: "onnx" or "stablehlo".
      image_size: (H, W) in pixels; None: as the position table, or 224 x 224.
      step: checkpoint of a workdir; None: the newest.

    Returns:
      Lines that say what was written and checked.

    Raises:
      OSError: if there is no such model, or the file cannot be written.
      ValueError: if the file exists or has another suffix, a package is missing, an image has no
        patch, or the file's features differ from those of the model; nothing is left of it then.
    """
    make, read = FORMATS[file_format]
    target = _target(out, file_format)
    trained = open_trained(model, step)
    backbone = trained.network.backbone
    size = image_size or backbone.implicit.image_size or (224, 224)
    if min(size) < backbone.patch_size:
        raise ValueError(
            f"--image-size={size[0]}x{size[1]} is smaller than one patch of {backbone.patch_size} "
            "pixels"
        )
    shape = (*size, backbone.in_channels)
    apply: Any = functools.partial(
        trained.network.clone(heads={}).apply, _backbone_only(trained.variables)
    )
    data = make(trained, apply, shape)
    with folder_of_results(target.parent), written_whole(target) as place:
        Path(place).write_bytes(data)
        deviation = _compare(read(Path(place).read_bytes()), apply, shape)
    sizes = f"[B, {', '.join(map(str, shape))}] uint8"
    return [
        f"{trained.title}: {file_format} for images {sizes} in {target}, {len(data) / 1e6:,.1f} MB",
        f"checked: read again and run on {' and '.join(map(str, CHECKED))} images, features differ "
        f"by {deviation:.1e} of the largest one at most",
        f"license of the weights: {trained.licence}",
    ]


def _target(out: str, file_format: str) -> epath.Path:
    path = absolute_path(out)
    if path.suffix != f".{file_format}":
        raise ValueError(f"--out={out} must end in .{file_format}")
    if path.exists():
        raise ValueError(f"--out={out} already exists; choose a new place")
    return path


def _backbone_only(variables: Any) -> Any:
    """Variables without those of heads."""
    return {
        kind: {"backbone": tree["backbone"]}
        for kind, tree in variables.items()
        if "backbone" in tree
    }


def _make_onnx(trained: Trained, apply: Any, shape: tuple[int, ...]) -> bytes:
    _import_onnx()
    made = to_onnx(apply, shape)
    made.producer_name, made.producer_version = "dino_jax", dino_jax.__version__
    for key, value in (("model", trained.title), ("license", trained.licence)):
        made.metadata_props.add(key=key, value=value)
    if made.ByteSize() > MAX_ONNX_BYTES:
        raise ValueError(
            f"--format=onnx: a file holds 2 GB at most, this model has {made.ByteSize() / 1e9:.1f}"
        )
    return made.SerializeToString()


def _read_onnx(data: bytes) -> Run:
    onnx, onnxruntime = _import_onnx()
    onnx.checker.check_model(data, full_check=True)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {INPUT: images}), strict=True))


def _import_onnx() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ValueError(
            f"--format=onnx needs onnx and onnxruntime ({error}): pip install 'dino_jax[onnx]'"
        ) from error
    return onnx, onnxruntime


def _make_stablehlo(trained: Trained, apply: Any, shape: tuple[int, ...]) -> bytes:
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *shape), jnp.uint8)
    return bytes(jax.export.export(jax.jit(apply), platforms=PLATFORMS)(images).serialize())


def _read_stablehlo(data: bytes) -> Run:
    call = jax.jit(jax.export.deserialize(bytearray(data)).call)
    return lambda images: jax.tree.map(np.asarray, call(images))


def _compare(run: Run, apply: Callable[[Any], Features], shape: tuple[int, ...]) -> float:
    """The largest deviation of the features of random images; raises a ValueError if too large."""
    worst, rng = 0.0, np.random.default_rng(0)
    for count in CHECKED:
        images = rng.integers(0, 256, (count, *shape), np.uint8)
        ours, theirs = jax.jit(apply)(images), run(images)
        if ours.keys() != theirs.keys():
            raise ValueError(f"the file gives {sorted(theirs)}, the model {sorted(ours)}")
        for name, expected in ours.items():
            largest = max(1.0, float(jnp.abs(expected).max()))
            found = float(np.abs(np.asarray(expected) - theirs[name]).max()) / largest
            if not found <= TOLERANCE:
                raise ValueError(
                    f"{name} of the file differs by {found:.1e} of the largest feature from the "
                    f"model; at most {TOLERANCE:.0e} was expected"
                )
            worst = max(worst, found)
    return worst


FORMATS = {
    "onnx": (_make_onnx, _read_onnx),
    "stablehlo": (_make_stablehlo, _read_stablehlo),
}
