"""FLOPs of the products and convolutions of a compiled program; on TPUs all are convolutions."""

import math
import re

import numpy as np

from dino_jax.plan.hlo import Array, Computation, Instruction


def contraction_flops(instruction: Instruction, computation: Computation) -> float:
    """Two FLOPs per multiplication and addition of a dot or convolution; 0 for all else."""
    if instruction.opcode not in ("dot", "convolution"):
        return 0
    left, right = (computation[name].arrays[0] for name in instruction.operands[:2])
    result = instruction.arrays[0]
    if instruction.opcode == "dot":
        contracted = instruction.attribute("lhs_contracting_dims") or ""
        sizes = [left.shape[int(axis)] for axis in re.findall(r"\d+", contracted)]
        return 2.0 * math.prod(result.shape) * math.prod(sizes)
    return _convolution_flops(instruction, left, right, result)


def _convolution_flops(
    instruction: Instruction, image: Array, kernel: Array, result: Array
) -> float:
    """Counts what is multiplied, without padding and the zeros of dilation.

    A batched matrix product is a convolution with its batch axes as spatial ones, dilated so that
    each output meets one input only.
    """
    labels = instruction.attribute("dim_labels") or ""
    images, kernels, results = re.split("_|->", labels)
    window = _read_window(instruction.attribute("window") or "{}")
    groups = int(instruction.attribute("batch_group_count") or 1)
    products = image.shape[images.index("b")] // groups * result.shape[results.index("f")]
    products *= kernel.shape[kernels.index("i")]
    for axis in range(len(images) - 2):
        place = str(axis)
        products *= count_pairs(
            image.shape[images.index(place)],
            kernel.shape[kernels.index(place)],
            result.shape[results.index(place)],
            stride=int(window["stride"][axis]) if "stride" in window else 1,
            before=int(window["pad"][axis].split("_")[0]) if "pad" in window else 0,
            dilation=int(window["lhs_dilate"][axis]) if "lhs_dilate" in window else 1,
            spread=int(window["rhs_dilate"][axis]) if "rhs_dilate" in window else 1,
        )
    return 2.0 * products


def _read_window(text: str) -> dict[str, list[str]]:
    """{"stride": ["1", "5"], …} of `{size=128x6 stride=1x5 pad=0_0x5_5}`."""
    entries = (entry.split("=") for entry in text.strip("{}").split())
    return {name: values.split("x") for name, values in entries}


def count_pairs(
    inputs: int,
    taps: int,
    outputs: int,
    *,
    stride: int = 1,
    before: int = 0,
    dilation: int = 1,
    spread: int = 1,
) -> int:
    """(output, tap) pairs of one axis of a convolution that meet an input.

    Args:
      inputs: size of the image.
      taps: size of the kernel.
      outputs: size of the result.
      stride: stride of the window.
      before: padding at the start.
      dilation: dilation of the image.
      spread: dilation of the kernel.
    """
    places = np.arange(outputs)[:, None] * stride + np.arange(taps) * spread - before
    inside = (places >= 0) & (places <= (inputs - 1) * dilation) & (places % dilation == 0)
    return int(np.count_nonzero(inside))
