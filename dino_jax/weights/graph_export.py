"""A trained backbone as a program that runs without us: ONNX, or StableHLO of `jax.export`.

Both take images [B, H, W, 3] uint8, with any B and the H and W that were asked for, and give the
features of `dino_jax.load(MODEL)(images)` by name: "cls" [B, D], "patches" [B, N, D] and so on.
"""

import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

import dino_jax
from dino_jax.foreign.files import file_system, is_remote
from dino_jax.models.backbone import Features
from dino_jax.weights.exporting import Trained, open_trained
from dino_jax.weights.onnx import int8
from dino_jax.weights.onnx.convert import INPUT, to_onnx
from dino_jax.weights.provenance import beside, fingerprint, write_provenance
from dino_jax.workdir.paths import absolute_path, folder_of_results

TOLERANCE = 1e-4  # largest deviation of a feature, over the largest feature or 1
PLATFORMS = ("cpu", "cuda", "tpu")  # of StableHLO
MAX_ONNX_BYTES = 2**31 - 2**20  # of a protocol buffer, less what is not weights
CHECKED = (1, 3)  # sizes of the batches that are compared

Run = Callable[[np.ndarray], dict[str, np.ndarray]]


def export_graph(
    model: str,
    out: str,
    file_format: str,
    image_size: tuple[int, int] | None = None,
    step: int | None = None,
    int8_images: str = "",
) -> list[str]:
    """Writes a backbone as a program, reads the file back, runs it and compares the features.

    Args:
      model: workdir of a run, folder of an import, or file of weights.
      out: new file, .onnx or .stablehlo as the format. Weights of more than 2 GB are in a file of
        their own beside it, FILE.onnx.data.
      file_format: "onnx" or "stablehlo".
      image_size: (H, W) in pixels; None: as the position table, or 224 x 224.
      step: checkpoint of a workdir; None: the newest.
      int8_images: folder of images on which the loss of 8 bits is measured; "": float32.

    Returns:
      Lines that say what was written and checked.

    Raises:
      OSError: if there is no such model, or the file cannot be written.
      ValueError: if the file exists or has another suffix, a package is missing, an image has no
        patch, or the file's features differ from those of the model; nothing is left of it then.
    """
    write, read = FORMATS[file_format]
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
    photos = int8.read_images(int8_images, shape, trained.decoding) if int8_images else None
    variables = _backbone_only(trained.variables)
    apply: Any = functools.partial(trained.network.clone(heads={}).apply, variables)
    with folder_of_results(target.parent), _moved_when_done(target) as place:
        write(trained, apply, shape, place)
        run = read(place)
        lines = [_compare(run, apply, shape)]
        if photos is not None:
            lines.append(_to_int8(place, read, run, photos, int8_images))
        written = sorted(file.name for file in place.parent.iterdir())
    files = [target, *(target.parent / name for name in written if name != target.name)]
    record = write_provenance(
        files, trained.title, fingerprint(variables), trained.licence, trained.origin
    )
    sizes = f"[B, {', '.join(map(str, shape))}] uint8"
    size_mb = sum(file.stat().length for file in files) / 1e6
    return [
        f"{trained.title}: {file_format} for images {sizes} in {' and '.join(map(str, files))}, "
        f"{size_mb:,.1f} MB",
        *lines,
        f"license of the weights: {trained.licence}",
        f"provenance: {record}",
    ]


def _target(out: str, file_format: str) -> epath.Path:
    path = absolute_path(out)
    if path.suffix != f".{file_format}":
        raise ValueError(f"--out={out} must end in .{file_format}")
    for file in (path, _data_of(path), beside(path)):
        if file.exists():
            raise ValueError(f"--out={out}: {file} already exists; choose a new place")
    return path


def _data_of(path: epath.Path) -> epath.Path:
    """Where the weights of a large ONNX model are."""
    return path.with_name(f"{path.name}.data")


@contextmanager
def _moved_when_done(target: epath.Path) -> Iterator[Path]:
    """A path of the same name in a folder of its own; all files of that folder go to the target's.

    Those that `target` needs go first. What a killed process has left is overwritten.
    """
    if is_remote(target):
        with tempfile.TemporaryDirectory() as made:
            yield Path(made, target.name)
            for file in _in_order(made, target.name):
                store, inner = file_system(os.fspath(target.parent / file.name))
                store.put_file(str(file), inner)
        return
    folder = Path(target.parent, f".{target.name}.part")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder / target.name
        for file in _in_order(folder, target.name):
            file.replace(Path(target.parent, file.name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _in_order(folder: Path | str, last: str) -> list[Path]:
    return sorted(Path(folder).iterdir(), key=lambda file: file.name == last)


def _backbone_only(variables: Any) -> Any:
    """Variables without those of heads."""
    return {
        kind: {"backbone": tree["backbone"]}
        for kind, tree in variables.items()
        if "backbone" in tree
    }


def _write_onnx(trained: Trained, apply: Any, shape: tuple[int, ...], place: Path) -> None:
    onnx, _ = _import_onnx()
    made = to_onnx(apply, shape)
    made.producer_name, made.producer_version = "dino_jax", dino_jax.__version__
    for key, value in (("model", trained.title), ("license", trained.licence)):
        made.metadata_props.add(key=key, value=value)
    weights = sum(len(tensor.raw_data) for tensor in made.graph.initializer)
    if weights <= MAX_ONNX_BYTES:
        onnx.save_model(made, place)
        return
    onnx.save_model(
        made,
        place,
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=f"{place.name}.data",
        size_threshold=1024,
    )


def _read_onnx(place: Path) -> Run:
    onnx, onnxruntime = _import_onnx()
    onnx.checker.check_model(str(place), full_check=not Path(f"{place}.data").exists())
    session = onnxruntime.InferenceSession(place, providers=["CPUExecutionProvider"])
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


def _to_int8(place: Path, read: Callable[[Path], Run], run: Run, photos: Any, folder: str) -> str:
    """Replaces the file by one in 8 bits; says what that costs."""
    if Path(f"{place}.data").exists():
        raise ValueError("--int8: models of more than 2 GB are not supported; leave --int8 out")
    small = place.with_name(f"int8_{place.name}")
    int8.quantize(place, small)
    loss = int8.measure_loss(run, read(small), *photos)
    int8.require_faithful(loss)
    sizes = int8.describe_size(place, small)
    small.replace(place)
    return f"{loss.describe(folder)}; {sizes}"


def _write_stablehlo(trained: Trained, apply: Any, shape: tuple[int, ...], place: Path) -> None:
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *shape), jnp.uint8)
    exported = jax.export.export(jax.jit(apply), platforms=PLATFORMS)(images)
    place.write_bytes(exported.serialize())


def _read_stablehlo(place: Path) -> Run:
    call = jax.jit(jax.export.deserialize(bytearray(place.read_bytes())).call)
    return lambda images: jax.tree.map(np.asarray, call(images))


def _compare(run: Run, apply: Callable[[Any], Features], shape: tuple[int, ...]) -> str:
    """One line about the features of random images; raises a ValueError if they differ."""
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
    return (
        f"checked: read again and run on {' and '.join(map(str, CHECKED))} images, features differ "
        f"by {worst:.1e} of the largest one at most"
    )


FORMATS = {
    "onnx": (_write_onnx, _read_onnx),
    "stablehlo": (_write_stablehlo, _read_stablehlo),
}
