"""Writes the pictures of the probe images, as `workdir.layout` names them."""

import io
import json
import math
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from dino_jax.data.decode import UnreadableImageError
from dino_jax.data.reading import read_image
from dino_jax.data.sources import ImageSource
from dino_jax.data.view import resize_for_evaluation
from dino_jax.foreign.files import read_bytes
from dino_jax.foreign.names import printable
from dino_jax.visualize.attention import draw_attention, overlay_attention
from dino_jax.visualize.patch_pca import align_signs, patch_pca, scores_to_rgb
from dino_jax.visualize.pictures import BACKGROUND, enlarge, enlarge_whole, tile_row
from dino_jax.visualize.probe_images import Look, ProbeImages
from dino_jax.visualize.reconstruction import hide
from dino_jax.workdir.layout import (
    PCA_NPY,
    PROBES_JSON,
    drawn_steps,
    probe_image,
    step_folder,
)

HEAD_TILE = 64  # least side of a head's map in pixels, also by a whole factor


class Album:
    """Writes the pictures of every evaluation of the probes; one process only."""

    def __init__(self, workdir: epath.Path, probes: ProbeImages, max_pixels: int):
        """Writes the probe images.

        Args:
          workdir: workdir of the run.
          probes: probe images that will be shown.
          max_pixels: larger neighbors count as unreadable.
        """
        self._workdir, self._probes, self._max_pixels = workdir, probes, max_pixels
        for number, image in enumerate(probes.images):
            write_png(probe_image(workdir, number), enlarge_whole(image))

    def add(self, step: int, look: Look) -> None:
        """Writes the pictures of one evaluation.

        Args:
          step: finished updates.
          look: outputs of the network for the probes.
        """
        folder = step_folder(self._workdir, step)
        pca = patch_pca(look.patches)
        earlier = self._earlier_scores(step, pca.scores.shape)
        scores = pca.scores if earlier is None else align_signs(pca.scores, earlier)
        colors = scores_to_rgb(scores)
        for number, image in enumerate(self._probes.images):
            large = enlarge_whole(image)
            write_png(folder / f"{number:02d}_pca.png", enlarge(colors[number], *large.shape[:2]))
            if look.attention is not None:
                self._write_attention(folder, number, large, look.attention[number])
            if look.filled is not None:
                write_png(folder / f"{number:02d}_seen.png", self._seen(number, large))
                write_png(folder / f"{number:02d}_filled.png", enlarge_whole(look.filled[number]))
            tiles = [self._neighbour(index) for index in look.nearest[number]]
            write_png(folder / f"{number:02d}_neighbours.png", tile_row(tiles))
        _write_bytes(folder / PCA_NPY, _npy(scores.astype(np.float16)))
        described = self._describe(look, pca.explained)
        (folder / PROBES_JSON).write_text(json.dumps({"step": step, **described}, indent=1))

    def _write_attention(
        self, folder: epath.Path, number: int, image: np.ndarray, heads: np.ndarray
    ) -> None:
        mean = overlay_attention(image, heads.mean(axis=0))
        write_png(folder / f"{number:02d}_attention.png", mean)
        side = math.ceil(HEAD_TILE / max(heads.shape[1:])) * max(heads.shape[1:])
        maps = [enlarge(draw_attention(head), side, side) for head in heads]
        write_png(folder / f"{number:02d}_heads.png", tile_row(maps))

    def _seen(self, number: int, image: np.ndarray) -> np.ndarray:
        reconstruction = self._probes.reconstruction
        if reconstruction is None:
            return image
        return hide(image, self._probes.masks[number], reconstruction.grid)

    def _neighbour(self, index: int) -> np.ndarray:
        size = self._probes.images.shape[1]
        try:
            image = read_image(self._probes.train, int(index), self._max_pixels)[0]
        except UnreadableImageError:  # it was readable a moment ago
            return enlarge_whole(np.full((size, size, 3), BACKGROUND, np.uint8))
        return enlarge_whole(resize_for_evaluation(image, size))

    def _describe(self, look: Look, explained: np.ndarray) -> dict[str, Any]:
        source, train = self._probes.source, self._probes.train
        rows = zip(self._probes.indices, look.nearest, look.cosine, strict=True)
        return {
            "heads": 0 if look.attention is None else look.attention.shape[1],
            "pca_explained": [round(float(share), 4) for share in explained],
            "probes": [
                {
                    **_caption(source, int(index)),
                    "neighbours": [
                        {**_caption(train, int(i)), "cosine": round(float(cosine), 4)}
                        for i, cosine in zip(nearest, cosines, strict=True)
                    ],
                }
                for index, nearest, cosines in rows
            ],
        }

    def _earlier_scores(self, step: int, shape: tuple[int, ...]) -> np.ndarray | None:
        """Scores of the newest earlier evaluation, if there is one and its shape is the same."""
        for other in reversed([other for other in drawn_steps(self._workdir) if other < step]):
            path = step_folder(self._workdir, other) / PCA_NPY
            if path.exists():
                scores = np.load(io.BytesIO(read_bytes(path, 1 << 28)))
                return scores.astype(np.float32) if scores.shape == shape else None
        return None


def write_png(path: epath.Path, pixels: np.ndarray) -> None:
    """Writes [H, W, 3] uint8 pixels, making the folder."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    _write_bytes(path, buffer.getvalue())


def _write_bytes(path: epath.Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _caption(source: ImageSource, index: int) -> dict[str, str]:
    """Name, and class name if there are labels."""
    record = source[index]
    label = record["label"]
    named = 0 <= label < len(source.class_names)
    caption = {"name": printable(record["name"])}
    return caption | ({"label": printable(source.class_names[label])} if named else {})
