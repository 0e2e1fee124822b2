"""Exported programs against ours and torch: python -m tests.benchmarks.export [--only=NAME]

For random weights of the quickstart's ViT, a ViT-S/14 with registers at three sizes and a
ResNet-50: the largest difference of a feature over the largest one, MB, and milliseconds of CPU
time per image on one core, batch 2, of our own float32, ONNX (onnxruntime), ONNX in int8, StableHLO
(jax) and torch (transformers' models of the same size, float32, eager). Programs are timed in
turns, the median of `--repeat` turns is shown. Needs the extras onnx and parity.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from dino_jax.data.decoding import Decoding
from dino_jax.models import resnet, vit
from dino_jax.models.network import Network
from dino_jax.weights import graph_export
from dino_jax.weights.exporting import Trained
from dino_jax.weights.onnx import int8

_REPEAT = flags.DEFINE_integer("repeat", 5, "Turns.", lower_bound=1)
_ONLY = flags.DEFINE_string("only", "", "Part of the name of the models to run.")
BATCH = 2

Run = Callable[[np.ndarray], Any]


class Case(NamedTuple):
    """A model: our backbone, the size of its images, and the same in torch."""

    name: str
    backbone: Any
    size: tuple[int, int]
    torch: Callable[[], Any]


def vit_of(**changes: Any) -> Any:
    return vit.build(vit.Config(**changes), jnp.float32)


def torch_vit(**config: Any) -> Any:
    """A ViT of transformers."""
    import transformers

    return transformers.ViTModel(transformers.ViTConfig(**config), add_pooling_layer=False)


def torch_dinov2() -> Any:
    """A ViT-S/14 with registers of transformers."""
    import transformers

    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=384, num_attention_heads=6, num_register_tokens=4, image_size=518
    )
    return transformers.Dinov2WithRegistersModel(config)


def torch_resnet() -> Any:
    """A ResNet-50 of transformers, without its classifier."""
    import transformers

    return transformers.ResNetModel(transformers.ResNetConfig())


def cases() -> list[Case]:
    """Our models beside those of torch."""
    quick = dict(embed_dim=64, depth=4, num_heads=1, patch_size=8)
    small = vit_of(
        embed_dim=384, depth=12, num_heads=6, patch_size=14, image_size=(518, 518), registers=4,
        layer_scale=1e-5, position_kernel="antialiased",
    )  # fmt: skip
    quick_torch = partial(
        torch_vit, hidden_size=64, num_hidden_layers=4, num_attention_heads=1,
        intermediate_size=256, image_size=32, patch_size=8,
    )  # fmt: skip
    quick_vit = vit_of(image_size=(32, 32), **quick)
    return [
        Case("ViT of the quickstart", quick_vit, (32, 32), quick_torch),
        Case("ViT-S/14, 4 registers", small, (224, 224), torch_dinov2),
        Case("ViT-S/14, 4 registers", small, (224, 336), torch_dinov2),
        Case("ViT-S/14, 4 registers", small, (518, 518), torch_dinov2),
        Case("ResNet-50", resnet.build(resnet.Config(), jnp.float32), (224, 224), torch_resnet),
    ]


def one_thread(place: Path) -> Run:
    """An ONNX file, run by one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(place, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda x: dict(zip(names, session.run(names, {"images": x}), strict=True))


def run_torch(model: Any, images: np.ndarray) -> Any:
    """One pass over [B, H, W, 3] uint8."""
    import torch

    with torch.inference_mode():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        more = {"interpolate_pos_encoding": True} if "ViTModel" in type(model).__name__ else {}
        return model(pixel_values=(pixels - 0.45) / 0.225, **more)


def milliseconds(runs: dict[str, Run], images: np.ndarray) -> dict[str, float]:
    """Median CPU time per image of each program, in turns after one turn to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(_REPEAT.value + 1):
        for name, run in runs.items():
            begin, count = time.process_time(), 0
            while count < 1 or time.process_time() - begin < 0.2:
                run(images)
                count += 1
            if turn:
                taken[name].append((time.process_time() - begin) / count / len(images) * 1000)
    return {name: statistics.median(values) for name, values in taken.items()}


def deviation(ours: Any, theirs: Any) -> float:
    """The largest difference of a feature, over the largest one."""
    return max(
        float(np.abs(np.asarray(ours[name]) - theirs[name]).max() / np.abs(ours[name]).max())
        for name in ours
    )


def measure(case: Case, folder: Path) -> None:
    """Prints a row per program."""
    shape = (*case.size, 3)
    network = Network(case.backbone, {}, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    images = np.random.default_rng(0).integers(0, 256, (BATCH, *shape), np.uint8)
    variables = jax.jit(network.init)(jax.random.key(0), jnp.asarray(images))
    variables = jax.tree.map(np.asarray, variables)
    apply = partial(network.apply, variables)
    trained = Trained("random", network, variables, "none", Decoding(), {})
    jitted = jax.jit(apply)
    expected = jax.tree.map(np.asarray, jitted(images))
    runs: dict[str, Run] = {"ours": lambda x: jax.block_until_ready(jitted(x))}
    sizes = {"ours": 4e-6 * sum(x.size for x in jax.tree.leaves(variables))}
    differences = {"ours": 0.0}
    for kind, (write, read) in graph_export.FORMATS.items():
        place = folder / f"model.{kind}"
        write(trained, apply, shape, place)
        runs[kind] = one_thread(place) if kind == "onnx" else read(place)
        sizes[kind] = place.stat().st_size / 1e6
        differences[kind] = deviation(expected, runs[kind](images))
    if case.backbone.has_attention:
        int8.quantize(folder / "model.onnx", folder / "int8.onnx")
        runs["onnx int8"] = one_thread(folder / "int8.onnx")
        sizes["onnx int8"] = (folder / "int8.onnx").stat().st_size / 1e6
        differences["onnx int8"] = deviation(expected, runs["onnx int8"](images))
    runs["torch"] = partial(run_torch, case.torch().eval())
    for name, each in milliseconds(runs, images).items():
        size = f"{sizes[name]:,.1f}" if name in sizes else ""
        different = f"{differences[name]:.1e}" if name in differences else ""
        height, width = case.size
        print(
            f"| {case.name} | {height} x {width} | {name} | {size} | {different} | {each:,.1f} |",
            flush=True,
        )


def main(argv: list[str]) -> None:
    del argv
    # One core, so that no library spends time on waiting for threads.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print("| backbone | images | program | MB | largest difference | CPU ms per image |")
    print("|---|---|---|---|---|---|")
    for case in cases():
        if _ONLY.value in case.name:
            with tempfile.TemporaryDirectory() as folder:
                measure(case, Path(folder))


if __name__ == "__main__":
    app.run(main)
