"""The global and local crops of one image (SwAV, arXiv:2006.09882; DINO, arXiv:2104.14294 3.1)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from dino_jax.data.augment import CropConfig, CropParameters, sample_crop_parameters
from dino_jax.data.geometry import resize_crops, split_columns
from dino_jax.data.photometric import blur_taps, encode_photometric
from dino_jax.data.recolor import BLUR, interleave_crops, recolor_crops

Batch = dict[str, np.ndarray]

BACKENDS = ("host", "device")
# Blur probability of a crop from that of the config. The helper of DINOv2's and DINOv3's code blurs
# with 1 - p (dinov3 issue 286), and their released weights were trained that way.
BLURS = {"as_documented": lambda p: p, "as_trained": lambda p: 1 - p}


@dataclass(frozen=True)
class _Kind:
    """Global or local crops: one config per crop, (height, width), number of blur weights."""

    name: str
    configs: tuple[CropConfig, ...]
    size: tuple[int, int]
    taps: int


@dataclass(frozen=True)
class MultiCrop:
    """Draws all crops of an image; picklable, so that worker processes can run it.

    Attributes:
      global_crops: the kinds of global crops, one size for all.
      local_crops: the kinds of local crops, one size for all; may be empty or have count 0.
      backend: who recolors the crops: "host", that is `fill`, with an order of the color jitter for
        every crop; or "device", that is `dino_jax.step.photometric`, with one order for all images
        of a step.
    """

    global_crops: tuple[CropConfig, ...]
    local_crops: tuple[CropConfig, ...]
    backend: str = "host"

    def __post_init__(self):
        _check_one_size("global", self.global_crops)
        _check_one_size("local", self.local_crops)
        if sum(config.count for config in self.global_crops) == 0:
            raise ValueError("augmentation: there are no global crops; set a global count to 1")
        if self.backend not in BACKENDS:
            raise ValueError(f"unknown augment.backend {self.backend!r}; known: {BACKENDS}")

    def layout(self, images: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shapes and dtypes of the crops of some images.

        Args:
          images: b.

        Returns:
          "global_crops": [b, G, H, W, 3] uint8; "local_crops": [b, L, h, w, 3] uint8, if there are
          any. With the device back end also "global_photometric": [b, G, P] float32 and
          "global_jitter_order": [b, G, 4] uint8, the same in every row, and likewise "local_…";
          their columns are those of `dino_jax.data.recolor`.
        """
        entries = {}
        for kind in self._kinds:
            rows = (images, len(kind.configs))
            entries[f"{kind.name}_crops"] = ((*rows, *kind.size, 3), np.dtype(np.uint8))
            if self.backend == "device":
                columns = BLUR + kind.taps
                entries[f"{kind.name}_photometric"] = ((*rows, columns), np.dtype(np.float32))
                entries[f"{kind.name}_jitter_order"] = ((*rows, 4), np.dtype(np.uint8))
        return entries

    def begin(self, batch: Batch, step_rng: np.random.Generator) -> None:
        """Writes what all images of a step share.

        Args:
          batch: the arrays of `layout`.
          step_rng: the randomness of the step.
        """
        if self.backend == "device":
            for kind in self._kinds:
                orders = [step_rng.permutation(4) for _ in kind.configs]
                batch[f"{kind.name}_jitter_order"][:] = orders

    def fill(self, batch: Batch, row: int, image: np.ndarray, rng: np.random.Generator) -> None:
        """Writes the crops of one image into a batch.

        Args:
          batch: the arrays of `layout`.
          row: of the batch.
          image: [H, W, 3] uint8 RGB.
          rng: the randomness of this image.
        """
        columns = split_columns(image)
        height, width = image.shape[:2]
        for kind in self._kinds:
            parameters = [
                sample_crop_parameters(rng, config, height, width) for config in kind.configs
            ]
            crops = _resize(columns, parameters, *kind.size)
            photometric = encode_photometric(parameters, kind.configs, kind.taps)
            if self.backend == "host":
                recolor_crops(crops, photometric, batch[f"{kind.name}_crops"][row])
            else:
                interleave_crops(crops, batch[f"{kind.name}_crops"][row])
                batch[f"{kind.name}_photometric"][row] = photometric.values

    @cached_property
    def _kinds(self) -> tuple["_Kind", ...]:
        kinds = []
        for name, configs in (("global", self.global_crops), ("local", self.local_crops)):
            each = tuple(config for config in configs for _ in range(config.count))
            if each:
                size = (each[0].height, each[0].width)
                kinds.append(_Kind(name, each, size, blur_taps(each)))
        return tuple(kinds)


def apply_crop(image: np.ndarray, parameters: CropParameters, config: CropConfig) -> np.ndarray:
    """Cuts, resizes and recolors in the official order: crop, flip, jitter, gray, blur, solarize.

    Args:
      image: [H, W, 3] uint8 RGB, of any size that holds the box.
      parameters: from `sample_crop_parameters`.
      config: gives the size and the solarize threshold.

    Returns:
      [config.height, config.width, 3] uint8.
    """
    crop = np.empty((1, config.height, config.width, 3), np.uint8)
    resized = _resize(split_columns(image), [parameters], config.height, config.width)
    photometric = encode_photometric([parameters], [config], blur_taps([config]))
    recolor_crops(resized, photometric, crop)
    return crop[0]


def allocate(multi_crop: MultiCrop, images: int) -> Batch:
    """New arrays for the crops of some images, not initialized."""
    layout = multi_crop.layout(images)
    return {name: np.empty(shape, dtype) for name, (shape, dtype) in layout.items()}


def compile_kernels(multi_crop: MultiCrop) -> None:
    """Compiles what `fill` needs, or loads it from disk, so that worker processes find it there."""
    image = np.zeros((8, 8, 3), np.uint8)
    multi_crop.fill(allocate(multi_crop, 1), 0, image, np.random.default_rng(0))


def build_multi_crop(augment: Any) -> MultiCrop:
    """Builds the augmentation of a config.

    Args:
      augment: ConfigDict (any mapping) with "backend", "blur" (of `BLURS`), and "global_1",
        "global_2" and "local", each with exactly the fields of `CropConfig`.

    Raises:
      ValueError: for a missing or unknown entry, a value out of range, or global (local) crops
        of different sizes.
    """
    _check_names("augment", augment, ("backend", "blur", "global_1", "global_2", "local"))
    if augment["blur"] not in BLURS:
        raise ValueError(f"unknown augment.blur {augment['blur']!r}; known: {sorted(BLURS)}")
    return MultiCrop(
        global_crops=(_crop_config("global_1", augment), _crop_config("global_2", augment)),
        local_crops=(_crop_config("local", augment),),
        backend=augment["backend"],
    )


def _resize(
    columns: np.ndarray, parameters: Sequence[CropParameters], height: int, width: int
) -> np.ndarray:
    boxes = np.array([one.box for one in parameters])
    flips = np.array([one.flip for one in parameters])
    return resize_crops(columns, boxes, flips, height, width)


def _crop_config(name: str, augment: Any) -> CropConfig:
    entry = augment[name]
    _check_names(f"augment.{name}", entry, [field.name for field in fields(CropConfig)])
    values = {key: entry[key] for key in entry}
    if not isinstance(values["size"], int):
        values["size"] = tuple(values["size"])
    values["blur"] = BLURS[augment["blur"]](values["blur"])
    return CropConfig(**values)


def _check_names(where: str, entry: Any, expected: Iterable[str]):
    missing, unknown = sorted(set(expected) - set(entry)), sorted(set(entry) - set(expected))
    if missing or unknown:
        raise ValueError(
            f"config.{where}: missing {missing}, unknown {unknown}; expected {sorted(expected)}"
        )


def _check_one_size(kind: str, configs: tuple[CropConfig, ...]):
    sizes = sorted({(config.height, config.width) for config in configs if config.count})
    if len(sizes) > 1:
        raise ValueError(
            f"augmentation: all {kind} crops must have one (height, width), got {sizes}"
        )
