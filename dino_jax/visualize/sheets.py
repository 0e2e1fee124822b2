"""The pictures of `dino-jax visualize`, each from a model and some images."""

from collections.abc import Sequence
from pathlib import PurePath

import jax
import numpy as np

from dino_jax.data.decode import MAX_PIXELS
from dino_jax.data.reading import read_image
from dino_jax.data.sources import FolderSource
from dino_jax.data.sources.decoded import decoded
from dino_jax.data.view import resize_for_evaluation
from dino_jax.devices.sharding import make_mesh
from dino_jax.visualize.attention import (
    cls_to_patches,
    draw_attention,
    keep_mass,
    overlay_attention,
)
from dino_jax.visualize.foreground import color_objects
from dino_jax.visualize.gallery import Gallery
from dino_jax.visualize.inputs import Named
from dino_jax.visualize.pictures import (
    apply_heat,
    caption,
    dim_outside,
    enlarge,
    enlarge_whole,
    mark_patch,
    overlay,
    pad_below,
    photograph,
    tile_rows,
)
from dino_jax.visualize.similarity import cosine_map, patch_at
from dino_jax.weights.model import Model

COLUMNS = 3  # of the heads of an attention sheet


def attention_sheet(model: Model, image: np.ndarray, mass: float) -> np.ndarray:
    """The image, the mean over the heads, the patches that hold `mass` of it; then every head.

    A line below each says which it is.

    Args:
      model: a ViT.
      image: [H, W, C] uint8, sides multiples of a patch.
      mass: see `attention.keep_mass`.

    Returns:
      [H', W', 3] uint8.

    Raises:
      ValueError: if the model is not a ViT.
    """
    grid = _grid(model, image)
    heads = np.asarray(cls_to_patches(model.attention(image[None])[0], grid), np.float32)
    mean = heads.mean(axis=0)
    image = enlarge_whole(image)
    first = [image, overlay_attention(image, mean), dim_outside(image, keep_mass(mean, mass))]
    maps = [enlarge(draw_attention(head), *image.shape[:2]) for head in heads]
    texts = ["image", "mean of the heads", f"{mass:.0%} of the mean"]
    texts += [f"head {number}" for number in range(len(maps))]
    tiles = [caption(tile, text) for tile, text in zip([*first, *maps], texts, strict=True)]
    return tile_rows([tiles[start : start + COLUMNS] for start in range(0, len(tiles), COLUMNS)])


def objects_sheet(model: Model, images: Sequence[np.ndarray]) -> np.ndarray:
    """A row per image: itself, and its objects by `foreground.color_objects`.

    Args:
      model: any backbone.
      images: each [H, W, C] uint8, sides multiples of a patch.
    """
    colors = color_objects([patch_features(model, image) for image in images])
    shown = [enlarge_whole(image) for image in images]
    return tile_rows(
        [[x, enlarge(color, *x.shape[:2])] for x, color in zip(shown, colors, strict=True)]
    )


def similarity_sheet(
    model: Model, images: Sequence[np.ndarray], point: tuple[int, int]
) -> np.ndarray:
    """A row per image: itself, the first with the marked patch, and how alike its patches are.

    Args:
      model: any backbone.
      images: each [H, W, C] uint8, sides multiples of a patch.
      point: (x, y) in the first image, in pixels.

    Raises:
      ValueError: if the point is outside.
    """
    features = [patch_features(model, image) for image in images]
    patch_size = images[0].shape[0] // features[0].shape[0]
    row, column = patch_at(point, images[0].shape[:2], patch_size)
    rows = []
    for number, (image, patches) in enumerate(zip(images, features, strict=True)):
        alike = cosine_map(patches, features[0][row, column])
        shown = enlarge_whole(image)
        alone = overlay(shown, apply_heat(alike))
        if number == 0:
            shown = mark_patch(shown, row, column, shown.shape[0] // patches.shape[0])
        rows.append([shown, alone])
    return tile_rows(rows)


def neighbours_sheet(
    model: Model, queries: Sequence[Named], gallery: str, k: int, as_seen: bool
) -> np.ndarray:
    """A row per image: itself, and the k images of a folder with the most similar cls token.

    Args:
      model: any backbone.
      queries: the images.
      gallery: folder of images.
      k: number of images per row.
      as_seen: whether images are shown as the network sees them, and not as they are.

    Raises:
      OSError: if the folder does not exist.
      ValueError: if it holds no images.
    """
    source, size = decoded(FolderSource(gallery), model.decoding), model.image_size
    mesh = make_mesh(1, jax.local_devices()[:1])
    found = Gallery(
        source, model.network, mesh, count=len(source), image_size=size, max_pixels=MAX_PIXELS
    )
    seen = model.preprocess([query.pixels for query in queries])
    indices, cosines = found.nearest(model.variables, np.asarray(model(seen)["cls"]), k)

    def show(image: np.ndarray) -> np.ndarray:
        return enlarge_whole(resize_for_evaluation(image, size)) if as_seen else photograph(image)

    rows = []
    for query, nearest, values in zip(queries, indices, cosines, strict=True):
        pictures, texts = [show(query.pixels)], [f"query {query.name}"]
        for index, cosine in zip(nearest.tolist(), values.tolist(), strict=True):
            pictures.append(show(read_image(source, index, MAX_PIXELS)[0]))
            texts.append(f"{cosine:.3f} {PurePath(source.name(index)).stem}")
        height = max(picture.shape[0] for picture in pictures)
        shown = zip(pictures, texts, strict=True)
        rows.append([caption(pad_below(picture, height), text) for picture, text in shown])
    return tile_rows(rows)


def patch_features(model: Model, image: np.ndarray) -> np.ndarray:
    """[h, w, D] float32 patch tokens of [H, W, C] uint8."""
    patches = np.asarray(model(image[None])["patches"][0], np.float32)
    height, width = _grid(model, image)
    return patches.reshape(height, width, -1)


def _grid(model: Model, image: np.ndarray) -> tuple[int, int]:
    patch_size = model.network.backbone.patch_size
    return image.shape[0] // patch_size, image.shape[1] // patch_size
