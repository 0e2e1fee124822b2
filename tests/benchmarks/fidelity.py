"""How far the crops of both back ends are from Pillow's, at equal boxes and factors."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from PIL import Image

from dino_jax.data.augment import CropConfig, CropParameters, sample_crop_parameters
from dino_jax.data.canvas import BOX_COLUMNS, FLIP, place
from dino_jax.data.multi_crop import AugmentConfig, MultiCrop, apply_crop
from dino_jax.data.photometric import blur_taps, encode_photometric
from dino_jax.step.canvas import cut_crops
from dino_jax.step.photometric import apply_photometric
from tests import plain_augment

Drawn = list[tuple[np.ndarray, CropParameters]]  # image and what to do with it

_NOTHING = {"jitter": (), "grayscale": False, "blur_radius": None, "solarize": False}


def measure_fidelity(images: list[np.ndarray], multi_crop: MultiCrop) -> None:
    """Prints mean, maximum and share above one level of the absolute differences."""
    print(f"\n{'levels of 255, against Pillow':42}{'mean':>9}{'max':>6}{'> 1':>10}")
    always = {"jitter": 1.0, "grayscale": 1.0, "blur": 1.0, "solarize": 1.0}
    kinds = (multi_crop.crops["global_1"], multi_crop.crops["local"])
    for name, keep in _OPERATIONS.items():
        changes = {} if name == "whole crop" else always
        pairs = [(config, dataclasses.replace(config, **changes)) for config in kinds]
        drawn = [
            (config, draw(images, frequent, keep, seed))
            for seed, (config, frequent) in enumerate(pairs)
        ]
        for method, make in _METHODS.items():
            if method != "host" and name == "geometry, Pillow with horizontal first":
                continue
            if (name == "geometry" and method == "device") or (
                method == "canvas" and name not in ("geometry", "whole crop")
            ):
                continue
            differences = [compare(config, crops, make, name) for config, crops in drawn]
            report(f"{name}, {method}", np.concatenate(differences))


def draw(
    images: list[np.ndarray],
    config: CropConfig,
    keep: Callable[[CropParameters], CropParameters],
    seed: int,
) -> Drawn:
    """One crop per image, of which `keep` leaves some operations."""
    rng = np.random.default_rng(seed)
    return [
        (image, keep(sample_crop_parameters(rng, config, *image.shape[:2]))) for image in images
    ]


def compare(config: CropConfig, drawn: Drawn, make: Callable, name: str) -> np.ndarray:
    """Absolute differences of all values; the geometry is compared with Pillow as installed."""
    newest = name in ("geometry", "whole crop")
    resize = plain_augment.resize if newest else plain_augment.resize_horizontally_first
    if name.endswith("horizontal first"):
        resize = plain_augment.resize_horizontally_first
    expected = [
        plain_augment.apply_crop(Image.fromarray(image), parameters, config, resize)
        for image, parameters in drawn
    ]
    made = np.asarray(make(config, drawn)).astype(int)
    return np.abs(made - np.stack(expected)).ravel()


def make_on_host(config: CropConfig, drawn: Drawn) -> np.ndarray:
    return np.stack([apply_crop(image, parameters, config) for image, parameters in drawn])


def make_on_device(config: CropConfig, drawn: Drawn) -> jax.Array:
    """Every crop as a batch of its own with its own order of the jitter."""
    plain = [(image, dataclasses.replace(one, **_NOTHING)) for image, one in drawn]
    return recolor_on_device(config, drawn, make_on_host(config, plain))


def make_on_canvas(config: CropConfig, drawn: Drawn) -> jax.Array:
    """Each image on a canvas of its own, cut as on TPUs and GPUs, which gives the same bits."""
    canvas = np.empty((len(drawn), 1, 3, *AugmentConfig().canvas), np.uint8)
    boxes = np.zeros((len(drawn), 1, BOX_COLUMNS), np.float32)
    for (image, one), room, box in zip(drawn, canvas[:, 0], boxes[:, 0], strict=True):
        down, across = place(image, room)
        box[:FLIP] = np.multiply(one.box, (across, down, across, down))
        box[FLIP] = one.flip
    cut = jax.jit(lambda batch: cut_crops(batch, {"x": config.size}))
    crops = cut({"canvas": canvas, "x_boxes": boxes})["x_crops"][:, 0]
    return recolor_on_device(config, drawn, crops)


def recolor_on_device(config: CropConfig, drawn: Drawn, crops: Any) -> jax.Array:
    """crops [N, h, w, 3] uint8, not yet recolored."""
    parameters = [one for _, one in drawn]
    values, order = encode_photometric(parameters, [config] * len(drawn), blur_taps([config]))
    recolor = jax.jit(apply_photometric)
    batch = {"x_crops": crops[None], "x_photometric": values[None], "x_jitter_order": order[None]}
    return recolor(batch)["x_crops"][0]


def report(name: str, differences: np.ndarray) -> None:
    share = (differences > 1).mean()
    print(f"{name:42}{differences.mean():9.5f}{differences.max():6d}{share:10.4%}")


def _keep_only(**fields: str) -> Callable[[CropParameters], CropParameters]:
    """Leaves the named fields, and of the jitter the named operation."""

    def keep(parameters: CropParameters) -> CropParameters:
        changes = {name: none for name, none in _NOTHING.items() if name not in fields}
        if "jitter" in fields:
            operation = fields["jitter"]
            changes["jitter"] = tuple(pair for pair in parameters.jitter if pair[0] == operation)
        return dataclasses.replace(parameters, **changes)

    return keep


_OPERATIONS = {
    "geometry": _keep_only(),
    "geometry, Pillow with horizontal first": _keep_only(),
    "brightness": _keep_only(jitter="brightness"),
    "contrast": _keep_only(jitter="contrast"),
    "saturation": _keep_only(jitter="saturation"),
    "hue": _keep_only(jitter="hue"),
    "grayscale": _keep_only(grayscale="all"),
    "blur": _keep_only(blur_radius="all"),
    "solarize": _keep_only(solarize="all"),
    "whole crop": lambda parameters: parameters,
}
_METHODS = {"host": make_on_host, "device": make_on_device, "canvas": make_on_canvas}
