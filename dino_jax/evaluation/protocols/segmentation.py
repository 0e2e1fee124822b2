"""A linear map from frozen patch tokens to classes: training, sliding window, mIoU.

Its options and its help are in `options.segmentation`.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dino_jax.data.decode import UnreadableImageError
from dino_jax.devices.sharding import make_mesh
from dino_jax.evaluation.bilinear import bilinear_matrix
from dino_jax.evaluation.crops import CropStream, RandomCrop, resize_short
from dino_jax.evaluation.image_files import BatchEmbedder, name_files, pad_color
from dino_jax.evaluation.linear_probe import (
    apply_head,
    count_batches,
    init_head,
    last_layers,
    patch_taker,
    train_probe,
    training_of,
    width_of,
)
from dino_jax.evaluation.options.segmentation import STRIDE, WINDOW
from dino_jax.evaluation.overlap import count_pairs, score_pairs
from dino_jax.evaluation.result import Result
from dino_jax.evaluation.segmentation_files import (
    IGNORED,
    SegmentationFiles,
    open_segmentation,
)
from dino_jax.evaluation.sharing import gather_any, gather_sum, open_same, own_share
from dino_jax.evaluation.sliding import View, classify_pixels, window_places
from dino_jax.models.network import Network
from dino_jax.processes.agreement import Agreement
from dino_jax.weights.limits import check_side
from dino_jax.weights.model import Model

PARTS = ("train", "val")
SCALES = (0.5, 2.0)  # short side of a training image over that of the window (mmsegmentation)
LARGEST_SHARE = 0.75  # largest share of one class in a training window (mmsegmentation)


def evaluate(model: Model, arguments: argparse.Namespace, agreement: Agreement) -> Result:
    """mIoU of the validation images, in percent.

    Processes share the images.

    Raises:
      ValueError: if an option is out of range, or images and masks differ in size.
      OSError: if the data set is missing.
    """
    mesh = make_mesh(1)
    training = training_of(arguments, mesh)
    layers = last_layers(model.network, arguments.layers)
    train, val = open_same(
        agreement,
        lambda: [open_segmentation(arguments.data, part) for part in PARTS],
        lambda both: {f"--data, {part}": one.images for part, one in zip(PARTS, both, strict=True)},
    )
    patch_size, scales = model.network.backbone.patch_size, arguments.scales
    side = -(-arguments.side // patch_size) * patch_size
    check_side(model, side, "--side")
    take = patch_taker(layers, normalize=True, with_cls=False)
    crop = RandomCrop(side, side, SCALES, pad_color(model), IGNORED, LARGEST_SHARE)
    stream = CropStream(len(train.images), train.read, crop, arguments.seed)
    width = width_of(model, take, side)
    head = init_head(jax.random.key(arguments.seed), width, train.classes, batch_norm=True)
    batches = count_batches(stream, training)
    head = train_probe(model, take, pixel_loss, head, training, batches, mesh)

    def forward(network: Network, variables: Any, images: jax.Array) -> jax.Array:
        return apply_head(head, take(network, variables, images))[0]

    segment = Segmenter(BatchEmbedder(model, forward), side, patch_size, scales, arguments.mirror)
    pairs, lost = confuse(segment, val)
    return Result(
        score_pairs(pairs),
        {
            "data": val.name,
            "train_images": len(train.images),
            "val_images": len(val.images),
            "layers": list(layers),
            "side": side,
            "scales": scales,
            "mirror": arguments.mirror,
            **training._asdict(),
            "seed": arguments.seed,
            "unreadable_train": name_files(train.images, ~gather_any(stream.lost)),
            "unreadable_val": name_files(val.images, ~lost),
        },
    )


def pixel_loss(logits: jax.Array, target: jax.Array, step: jax.Array) -> jax.Array:
    """Mean cross-entropy of the pixels that have a class.

    Args:
      logits: [B, h, w, C], which are enlarged to the target (bilinear).
      target: [B, H, W] classes or `IGNORED`; h must divide H.
      step: unused.
    """
    del step
    batch, height, width, _ = logits.shape
    rows = bilinear_matrix(height, target.shape[1])
    columns = bilinear_matrix(width, target.shape[2])
    wide = jnp.einsum("Ww,bhwc->bhWc", columns, logits)

    # Logits of all pixels at once would take gigabytes: so one row of patches after another.
    @jax.checkpoint
    def add_rows(sums, block):
        weights, labels = block
        large = jnp.einsum("rh,bhWc->brWc", weights, wide)
        counts = labels != IGNORED
        chosen = jnp.where(counts, labels, 0).astype(jnp.int32)[..., None]
        own = jnp.take_along_axis(jax.nn.log_softmax(large), chosen, axis=-1)[..., 0]
        return (sums[0] - jnp.sum(own * counts), sums[1] + jnp.sum(counts)), None

    blocks = rows.reshape(height, -1, height)
    labels = jnp.moveaxis(target.reshape(batch, height, -1, target.shape[2]), 1, 0)
    nothing = jnp.zeros(()), jnp.zeros((), jnp.int32)
    (total, count), _ = jax.lax.scan(add_rows, nothing, (blocks, labels))
    return total / jnp.maximum(count, 1)


class Segmenter:
    """Classes of whole images, window by window, at every scale."""

    def __init__(
        self,
        embedder: BatchEmbedder,
        side: int,
        patch_size: int,
        scales: Sequence[float],
        mirror: bool,
    ):
        """Takes windows [n, side, side, 3] to logits [n, h, w, C].

        Args:
          embedder: compiled forward pass.
          side: side of a window, pixels.
          patch_size: pixels per patch.
          scales: the short side of an image becomes `side` times each.
          mirror: whether to use the mirrored image, too.
        """
        self._embedder, self._side, self._patch_size = embedder, side, patch_size
        self._scales, self._mirror = scales, mirror

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """[H, W, 3] uint8 to [H, W] uint8."""
        views = []
        for scale in self._scales:
            resized = resize_short(pixels, self._side * scale)
            views.append(self._see(resized))
            if self._mirror:
                views.append(self._see(resized[:, ::-1])._replace(mirrored=True))
        return classify_pixels(views, self._patch_size, (pixels.shape[0], pixels.shape[1]))

    def _see(self, image: np.ndarray) -> View:
        height, width, _ = image.shape
        side, stride = self._side, max(round(self._side * STRIDE / WINDOW), 1)
        places = window_places(height, width, side, stride)
        windows = [image[top : top + side, left : left + side] for top, left in places]
        return View(self._embedder(np.stack(windows)), places, (height, width))


def confuse(segment: Segmenter, files: SegmentationFiles) -> tuple[np.ndarray, np.ndarray]:
    """[C, C] pixels of readable images by true and predicted class; bool [N], unreadable images."""
    pairs = np.zeros((files.classes, files.classes), np.int64)
    lost = np.zeros(len(files.images), bool)
    for index in own_share(len(files.images), "validation"):
        try:
            pixels, truth = files.read(index)
        except UnreadableImageError:
            lost[index] = True
            continue
        pairs += count_pairs(segment(pixels), truth, files.classes, IGNORED)
    return gather_sum(pairs), gather_any(lost)
