"""Masks of videos, propagated along similar patches, and their J and F.

Its options and its help are in `options.video_segmentation`.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from PIL import Image

from dino_jax.data.decode import UnreadableImageError
from dino_jax.evaluation.bilinear import resize
from dino_jax.evaluation.davis import (
    VOID,
    Video,
    frame_size,
    list_videos,
    read_mask,
    write_mask,
)
from dino_jax.evaluation.image_files import BatchEmbedder, normalize_pixels, read_pixels
from dino_jax.evaluation.mask_measures import (
    Statistics,
    contour_accuracy,
    describe_object,
    region_similarity,
)
from dino_jax.evaluation.options.video_segmentation import Propagation
from dino_jax.evaluation.propagation import decide, follow_objects, shrink_mask
from dino_jax.evaluation.result import Result
from dino_jax.evaluation.sharing import gather_any, gather_rows, open_same, own_share
from dino_jax.models.network import Network
from dino_jax.processes.agreement import Agreement
from dino_jax.weights.limits import check_side
from dino_jax.weights.model import Model
from dino_jax.workdir.paths import absolute_path

REFERENCE_STD = (0.228, 0.224, 0.225)  # official eval_video_segmentation.py; elsewhere 0.229
MEASURES = {"J": region_similarity, "F": contour_accuracy}


def evaluate(model: Model, arguments: argparse.Namespace, agreement: Agreement) -> Result:
    """J and F over all objects, in percent.

    Processes share the videos; each writes the masks of its own.

    Raises:
      ValueError: if an option is out of range, or masks do not fit their frames.
      OSError: if the data set is missing.
    """
    how = Propagation(arguments.frames, arguments.top_k, arguments.radius)
    check_side(model, arguments.short_side, "--short-side")
    videos = open_same(
        agreement,
        partial(list_videos, arguments.data, arguments.split),
        lambda videos: {"--data": [path for video in videos for path in video.frames]},
    )
    std = REFERENCE_STD if arguments.reference else model.network.std
    reader = FrameReader(model, arguments.short_side, std)
    rows, lost = [], np.zeros(len(videos), bool)
    for number in own_share(len(videos), "DAVIS", "videos"):
        try:
            masks = segment_video(reader, videos[number], how)
            found = measure_video(videos[number], masks, arguments.masks)
            rows += [[*found_j, *found_f] for found_j, found_f in found]
        except UnreadableImageError:
            lost[number] = True
    table, lost = gather_rows(np.array(rows, np.float64).reshape(-1, 6)), gather_any(lost)
    return Result(
        summarize(table),
        {
            "split": arguments.split,
            "videos": len(videos) - int(lost.sum()),
            "objects": len(table),
            "short_side": arguments.short_side,
            **how._asdict(),
            "reference": arguments.reference,
            "unreadable": [videos[number].name for number in np.flatnonzero(lost)],
        },
    )


class FrameReader:
    """Frames as patch features, in batches of one frame per device."""

    def __init__(self, model: Model, short_side: int, std: tuple[float, ...]):
        self._mean, self._std, self._short = model.network.mean, std, short_side
        self.patch_size: int = model.network.backbone.patch_size
        self._embedder = BatchEmbedder(model, patch_features)

    def read(self, video: Video) -> Iterator[np.ndarray]:
        """[h, w, D] float32 of every frame, in order.

        Raises:
          UnreadableImageError: if a frame is not an image.
          ValueError: if frames have different sizes.
        """
        for start in range(0, len(video.frames), jax.local_device_count()):
            batch = video.frames[start : start + jax.local_device_count()]
            images = np.stack([self._resize(pixels) for pixels in self._read(video, batch)])
            height, width = (side // self.patch_size for side in images.shape[1:3])
            features = self._embedder(images)
            yield from features.reshape(len(batch), height, width, -1)

    def _read(self, video: Video, files: Sequence[str]) -> Iterator[np.ndarray]:
        """[H, W, 3] uint8 of each frame; all have the size of the mask of the first frame."""
        expected = read_mask(video.masks[0]).shape
        for path in files:
            pixels = read_pixels(path)
            if pixels.shape[:2] != expected:
                raise ValueError(
                    f"{path} has {pixels.shape[0]} x {pixels.shape[1]} pixels, the first mask of "
                    f"this video {expected[0]} x {expected[1]}"
                )
            yield pixels

    def _resize(self, pixels: np.ndarray) -> np.ndarray:
        """[H, W, 3] float32, bilinear without antialiasing and rounded, as OpenCV resizes."""
        height, width, _ = pixels.shape
        size = frame_size(height, width, self._short, self.patch_size)
        resized = np.rint(resize(pixels.astype(np.float32), *size))
        return normalize_pixels(resized, self._mean, self._std)


def patch_features(network: Network, variables: Any, images: jax.Array) -> jax.Array:
    """[B, N, D] patch tokens, as a `Take`."""
    features: Any = network.apply(variables, images)
    return features["patches"].astype(jnp.float32)


def segment_video(reader: FrameReader, video: Video, how: Propagation) -> Iterator[np.ndarray]:
    """Predicted masks [H, W] uint8 of the second frame, the third, …, in the size of the first.

    Raises:
      UnreadableImageError: if a frame or the first mask is not an image.
    """
    first = read_mask(video.masks[0])
    objects = np.where(first == VOID, 0, first)
    features = reader.read(video)
    origin = next(features)
    labels = shrink_mask(objects, origin.shape[:2])
    height, width = first.shape
    for soft in follow_objects(itertools.chain([origin], features), labels, how):
        mask = Image.fromarray(np.asarray(decide(soft, reader.patch_size)))
        yield np.array(mask.resize((width, height), Image.Resampling.NEAREST))


def measure_video(
    video: Video, predicted: Iterator[np.ndarray], folder: str
) -> list[tuple[Statistics, Statistics]]:
    """J and F of every object of the first mask; the first and last frame do not count.

    Args:
      video: video with the true masks.
      predicted: masks of the second frame, the third, …
      folder: folder for the predicted masks; "": they are not written.

    Raises:
      UnreadableImageError: if a mask is not an image.
      ValueError: if masks of a video have different sizes, or the first one has no objects.
    """
    first = read_mask(video.masks[0])
    objects = range(1, 1 + int(np.max(first, where=first != VOID, initial=0)))
    if not objects:
        raise ValueError(f"{video.masks[0]} shows no objects: all its pixels are background")
    values = []
    for path, mask in zip(video.masks[1:], predicted, strict=True):
        truth = read_mask(path)
        if truth.shape != mask.shape:
            raise ValueError(
                f"{path} has {truth.shape[0]} x {truth.shape[1]} pixels, the first mask of this "
                f"video {mask.shape[0]} x {mask.shape[1]}"
            )
        if folder:
            write_mask(absolute_path(folder) / video.name / epath.Path(path).name, mask)
        if path != video.masks[-1]:
            values.append(_measure_frame(mask, truth, objects))
    table = np.array(values)  # [frames, objects, 2]
    return [
        (describe_object(table[:, index, 0]), describe_object(table[:, index, 1]))
        for index in range(len(objects))
    ]


def _measure_frame(mask: np.ndarray, truth: np.ndarray, objects: range) -> list[list[float]]:
    void = truth == VOID
    return [
        [measure(mask == number, truth == number, void) for measure in MEASURES.values()]
        for number in objects
    ]


def summarize(table: np.ndarray) -> dict[str, float]:
    """The table of the DAVIS tool, in percent.

    Args:
      table: [objects, 6] mean, recall, decay of J and of F.

    Raises:
      ValueError: if there are no objects.
    """
    if not len(table):
        raise ValueError("no video can be read")
    means = dict(
        zip(
            [f"{measure}_{name}" for measure in MEASURES for name in Statistics._fields],
            (100 * table.mean(axis=0)).tolist(),
            strict=True,
        )
    )
    return {"J&F_mean": (means["J_mean"] + means["F_mean"]) / 2, **means}
