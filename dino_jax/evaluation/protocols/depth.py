"""A linear map from frozen patch tokens to depth: training, whole images, errors.

Its options and its help are in `options.depth`.
"""

import argparse
from typing import Any

import jax
import numpy as np

from dino_jax.data.decode import UnreadableImageError
from dino_jax.devices.sharding import make_mesh
from dino_jax.evaluation.bilinear import resize
from dino_jax.evaluation.crops import CropStream, RandomCrop
from dino_jax.evaluation.depth import Range, depth_errors, expected_depth, sig_loss
from dino_jax.evaluation.depth_files import DepthFiles, open_depth
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
from dino_jax.evaluation.options.depth import MAX_DEPTH
from dino_jax.evaluation.result import Result
from dino_jax.evaluation.sharing import gather_any, gather_rows, open_same, own_share
from dino_jax.models.network import Network
from dino_jax.processes.agreement import Agreement
from dino_jax.weights.limits import check_side
from dino_jax.weights.model import Model

NYU = Range(1e-3, MAX_DEPTH, 256)  # metres
EIGEN_SIZE, EIGEN_CROP = (480, 640), (slice(45, 471), slice(41, 601))  # arXiv:1406.2283
FOUR_BLOCKS = {  # by depth: S and B, L, g (spec of DINOv2, section 10)
    12: (2, 5, 8, 11),
    24: (4, 11, 17, 23),
    40: (9, 19, 29, 39),
}
PARTS = ("train", "test")
ERRORS = ("rmse", "abs_rel", "delta1", "delta2", "delta3")


def evaluate(model: Model, arguments: argparse.Namespace, agreement: Agreement) -> Result:
    """RMSE in metres, abs_rel and delta1 to delta3, means over the test images.

    Processes share the images.

    Raises:
      ValueError: if an option is out of range, or images and depths differ in size.
      OSError: if the data set is missing.
    """
    mesh = make_mesh(1)
    training, depths = training_of(arguments, mesh), depths_of(arguments)
    layers = depth_layers(model.network, arguments.layers)
    train, test = open_same(
        agreement,
        lambda: [open_depth(arguments.data, part) for part in PARTS],
        lambda both: {f"--data, {part}": one.images for part, one in zip(PARTS, both, strict=True)},
    )
    patch_size = model.network.backbone.patch_size
    height, width = (-(-side // patch_size) * patch_size for side in arguments.crop)
    check_side(model, max(height, width), "--crop")
    take = patch_taker(layers, normalize=False, with_cls=True)

    def loss(logits: jax.Array, truth: jax.Array, step: jax.Array) -> jax.Array:
        predicted = resize(expected_depth(logits, depths)[..., None], *truth.shape[1:])
        return sig_loss(predicted[..., 0], truth, step)

    crop = RandomCrop(height, width, None, pad_color(model), 0)
    read = Within(train, depths).read
    stream = CropStream(len(train.images), read, crop, arguments.seed)
    dim = width_of(model, take, patch_size)
    head = init_head(jax.random.key(arguments.seed), dim, depths.bins, batch_norm=False)
    batches = count_batches(stream, training)
    head = train_probe(model, take, loss, head, training, batches, mesh)

    def forward(network: Network, variables: Any, images: jax.Array) -> jax.Array:
        return expected_depth(apply_head(head, take(network, variables, images))[0], depths)

    predictor = Predictor(BatchEmbedder(model, forward), patch_size, pad_color(model), depths)
    errors, lost = measure(predictor, test, depths, eigen=not arguments.no_eigen_crop)
    return Result(
        dict(zip(ERRORS, errors.mean(axis=0).tolist(), strict=True)),
        {
            "train_images": len(train.images),
            "test_images": len(test.images),
            "layers": list(layers),
            **depths._asdict(),
            "crop": [height, width],
            "eigen_crop": not arguments.no_eigen_crop,
            **training._asdict(),
            "seed": arguments.seed,
            "unreadable_train": name_files(train.images, ~gather_any(stream.lost)),
            "unreadable_test": name_files(test.images, ~lost),
        },
    )


class Within:
    """Depth files with 0 for depths outside of a range."""

    def __init__(self, files: DepthFiles, depths: Range):
        self._files, self._depths = files, depths

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """See `DepthFiles.read`."""
        pixels, truth = self._files.read(index)
        inside = (truth > self._depths.smallest) & (truth <= self._depths.largest)
        return pixels, np.where(inside, truth, 0).astype(np.float32)


class Predictor:
    """Depths of whole images of any size."""

    def __init__(self, embedder: BatchEmbedder, patch_size: int, color: np.ndarray, depths: Range):
        """Takes the map from images [B, H, W, 3] to depths [B, 4 h, 4 w], and padding's color."""
        self._embedder, self._patch_size, self._color = embedder, patch_size, color
        self._depths = depths

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """[H, W, 3] uint8 to [H, W] float32 meters; padded on all sides to whole patches."""
        height, width, _ = pixels.shape
        rows, columns = (
            -(-side // self._patch_size) * self._patch_size for side in (height, width)
        )
        top, left = (rows - height) // 2, (columns - width) // 2
        padded = np.empty((rows, columns, 3), np.uint8)
        padded[:] = self._color
        padded[top : top + height, left : left + width] = pixels
        depth = resize(self._embedder(padded[None])[0][..., None], rows, columns)[..., 0]
        inside = depth[top : top + height, left : left + width]
        return np.clip(inside, self._depths.smallest, self._depths.largest)


def measure(
    predictor: Predictor, files: DepthFiles, depths: Range, eigen: bool
) -> tuple[np.ndarray, np.ndarray]:
    """[n, 5] `ERRORS` of all readable images, and bool [N], true for the unreadable ones.

    Raises:
      ValueError: if no image can be read, or one does not have the size of the Eigen crop.
    """
    rows, lost = [], np.zeros(len(files.images), bool)
    within = Within(files, depths)
    for index in own_share(len(files.images), "test"):
        try:
            pixels, truth = within.read(index)
        except UnreadableImageError:
            lost[index] = True
            continue
        if eigen and truth.shape != EIGEN_SIZE:
            raise ValueError(
                f"{files.images[index]} has {truth.shape[0]} x {truth.shape[1]} pixels, the Eigen "
                f"crop is for {EIGEN_SIZE[0]} x {EIGEN_SIZE[1]}; pass --no-eigen-crop"
            )
        window = EIGEN_CROP if eigen else (slice(None), slice(None))
        found = depth_errors(predictor(pixels)[window], truth[window])
        rows.append([found[name] for name in ERRORS])
    errors = gather_rows(np.array(rows, np.float64).reshape(-1, len(ERRORS)))
    if not len(errors):
        raise ValueError(f"none of the {len(files.images)} test images can be read")
    return errors, gather_any(lost)


def depth_layers(network: Network, count: int) -> tuple[int, ...]:
    """The blocks whose features are used: the last one, or four over the whole depth.

    Raises:
      ValueError: if this backbone has no such choice.
    """
    if count == 1:
        return last_layers(network, count)
    depth = network.backbone.depth
    if count != 4 or depth < 4:
        raise ValueError(
            f"--layers={count}: it must be 1, or 4 if there are at least 4 blocks; this "
            f"{type(network.backbone).__name__} has {depth}"
        )
    return FOUR_BLOCKS.get(depth, tuple(depth * part // 4 - 1 for part in (1, 2, 3, 4)))


def depths_of(arguments: argparse.Namespace) -> Range:
    """Reads the options from the command line.

    Raises:
      ValueError: if the range is empty.
    """
    if not arguments.max_depth > NYU.smallest:
        raise ValueError(f"--max-depth ({arguments.max_depth}) must be above {NYU.smallest} m")
    return NYU._replace(largest=arguments.max_depth)
