"""ONNX graphs in 8 bits for CPUs, and what that costs on somebody's photos.

Weights of matrix products become int8, one scale per output; what they are multiplied with becomes
8 bits when the graph runs, one scale per image batch (dynamic quantization of onnxruntime). The
products of attention, norms and convolutions stay in float32.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dino_jax.config.range import MAX_PIXELS
from dino_jax.data.decoding import Decoding
from dino_jax.data.reading import read_image
from dino_jax.data.sources import build_source, said_whole
from dino_jax.data.view import resize_for_evaluation

MOST_IMAGES = 2000  # evenly spaced over the folder
NEIGHBOURS, TEMPERATURE = 20, 0.07  # of the papers' k-NN
LEAST_COSINE = 0.9  # mean over the images; below, the file is refused
_BATCH = 8

Run = Callable[[np.ndarray], dict[str, np.ndarray]]


class Loss(NamedTuple):
    """What int8 costs on some images.

    Attributes:
      images: number of images.
      mean_cosine: between the cls tokens of both, mean.
      least_cosine: the smallest one.
      same_nearest: share of images whose nearest neighbor is the same image.
      accuracies: k-NN accuracy of (float32, int8), every image classified by all others; None
        without labels.
    """

    images: int
    mean_cosine: float
    least_cosine: float
    same_nearest: float
    accuracies: tuple[float, float] | None

    def describe(self, folder: str) -> str:
        """One line for people."""
        line = (
            f"int8 against float32 on {self.images:,} images of {folder}: cosine of cls "
            f"{self.mean_cosine:.4f} on average, {self.least_cosine:.4f} at least; "
            f"{self.same_nearest:.1%} keep their nearest neighbor"
        )
        if self.accuracies is None:
            return f"{line}; no class folders, so no k-NN accuracy"
        before, after = self.accuracies
        return (
            f"{line}; k-NN accuracy (leave-one-out, k {NEIGHBOURS}) {before:.2%} with float32, "
            f"{after:.2%} with int8"
        )


def quantize(float_model: Path, out: Path) -> None:
    """Writes an ONNX file with 8-bit matrix products.

    Args:
      float_model: ONNX file in float32, in one piece.
      out: new file.

    Raises:
      ValueError: if the graph has no product with weights, as those of ResNets.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # 7 bits of weights: sums of 8-bit products saturate on x86 without VNNI (onnxruntime's docs).
    with _without_advice():
        quantize_dynamic(
            float_model,
            out,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
    kinds = {node.op_type for node in onnx.load(out, load_external_data=False).graph.node}
    if "MatMulInteger" not in kinds:
        raise ValueError(
            "--int8: the network has no matrix products with weights (a ResNet has convolutions, "
            "which stay in float32); leave --int8 out"
        )


@contextmanager
def _without_advice() -> Iterator[None]:
    """onnxruntime advises to fold constants first, which `to_onnx` has done."""
    root, hides = logging.getLogger(), lambda record: "pre-processing" not in record.getMessage()
    root.addFilter(hides)
    try:
        yield
    finally:
        root.removeFilter(hides)


def read_images(
    folder: str, shape: tuple[int, ...], decoding: Decoding
) -> tuple[np.ndarray, np.ndarray]:
    """Images of a folder in the size of a graph, and their classes.

    Args:
      folder: folder of images, with classes as its first-level folders or without.
      shape: (H, W, C).
      decoding: how files become pixels.

    Returns:
      [N, H, W, C] uint8 and [N] labels, -1 for none.

    Raises:
      OSError: if there is no such folder.
      ValueError: if it has fewer than two images, or one is unreadable.
    """
    config = said_whole({"kind": "folder", "path": folder}, "--int8", decoding)
    source = build_source(config, "--int8")
    count = min(MOST_IMAGES, len(source))
    if count < 2:
        raise ValueError(f"--int8={folder} holds one image; the loss is measured on two at least")
    height, width, channels = shape
    images = np.zeros((count, *shape), np.uint8)
    labels = np.zeros(count, np.int32)
    top, left = (max(height, width) - height) // 2, (max(height, width) - width) // 2
    for row, index in enumerate((np.arange(count) * len(source) // count).tolist()):
        image, labels[row], _ = read_image(source, index, MAX_PIXELS)
        square = resize_for_evaluation(image, max(height, width))
        images[row] = square[top : top + height, left : left + width, :channels]
    return images, labels


def measure_loss(before: Run, after: Run, images: np.ndarray, labels: np.ndarray) -> Loss:
    """Compares the cls tokens of two graphs.

    Args:
      before: the graph in float32.
      after: the graph in int8.
      images: [N, H, W, C] uint8, N at least 2.
      labels: [N], -1 for none.
    """
    pair = [_features(run, images) for run in (before, after)]
    cosines = np.einsum("nd,nd->n", *pair)
    nearest, accuracies = [], []
    for features in pair:
        similarities = features @ features.T
        np.fill_diagonal(similarities, -np.inf)
        nearest.append(similarities.argmax(axis=1))
        accuracies.append(_leave_one_out(similarities, labels))
    return Loss(
        images=len(images),
        mean_cosine=float(cosines.mean()),
        least_cosine=float(cosines.min()),
        same_nearest=float((nearest[0] == nearest[1]).mean()),
        accuracies=(accuracies[0], accuracies[1]) if labels.min() >= 0 else None,
    )


def _features(run: Run, images: np.ndarray) -> np.ndarray:
    """[N, D] cls tokens of length 1."""
    parts = [run(images[i : i + _BATCH])["cls"] for i in range(0, len(images), _BATCH)]
    features = np.concatenate(parts).astype(np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _leave_one_out(similarities: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy of weighted k-NN (arXiv:1805.01978) of [N, N] similarities, -inf on the diagonal."""
    k = min(NEIGHBOURS, len(labels) - 1)
    nearest = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    rows = np.arange(len(labels))[:, None]
    weights = np.exp((similarities[rows, nearest] - 1) / TEMPERATURE)
    votes = np.zeros((len(labels), max(1, labels.max() + 1)))
    np.add.at(votes, (np.broadcast_to(rows, nearest.shape), labels[nearest]), weights)
    return float((votes.argmax(axis=1) == labels).mean())


def require_faithful(loss: Loss) -> None:
    """Raises a ValueError if the features are others."""
    if not loss.mean_cosine >= LEAST_COSINE:
        raise ValueError(
            f"--int8: the cosine to the features in float32 is {loss.mean_cosine:.3f} on average, "
            f"at least {LEAST_COSINE} is expected; this network does not bear 8 bits, leave --int8 "
            "out"
        )


def describe_size(before: Path, after: Path) -> str:
    """Both sizes, as text."""
    sizes: list[Any] = [path.stat().st_size / 1e6 for path in (before, after)]
    return f"{sizes[0]:,.1f} MB in float32, {sizes[1]:,.1f} MB in int8"
