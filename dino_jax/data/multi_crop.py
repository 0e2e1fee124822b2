"""The global and local crops of one image (SwAV, arXiv:2006.09882; DINO, arXiv:2104.14294 3.1)."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from PIL import Image

from dino_jax.data.augment import CropConfig, apply_crop, sample_crop_parameters


@dataclass(frozen=True)
class MultiCrop:
    """Draws all crops of an image; picklable, so that worker processes can run it.

    Attributes:
      global_crops: the kinds of global crops, one size for all.
      local_crops: the kinds of local crops, one size for all; may be empty or have count 0.
    """

    global_crops: tuple[CropConfig, ...]
    local_crops: tuple[CropConfig, ...]

    def __post_init__(self):
        _check_one_size("global", self.global_crops)
        _check_one_size("local", self.local_crops)
        if sum(config.count for config in self.global_crops) == 0:
            raise ValueError("augmentation: there are no global crops; set a global count to 1")

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Augments one image.

        Args:
          image: [H, W, 3] uint8 RGB.
          rng: the randomness of this image.

        Returns:
          "global_crops": [G, H, W, 3] uint8; "local_crops": [L, h, w, 3] uint8, if there are any.
        """
        source = Image.fromarray(image)
        views = {"global_crops": _draw(source, self.global_crops, rng)}
        if any(config.count for config in self.local_crops):
            views["local_crops"] = _draw(source, self.local_crops, rng)
        return views


def build_multi_crop(augment: Any) -> MultiCrop:
    """Builds the augmentation of a config.

    Args:
      augment: ConfigDict (any mapping) with "global_1", "global_2" and "local", each with exactly
        the fields of `CropConfig`.

    Raises:
      ValueError: for a missing or unknown entry, a value out of range, or global (local) crops
        of different sizes.
    """
    _check_names("augment", augment, ("global_1", "global_2", "local"))
    return MultiCrop(
        global_crops=(_crop_config("global_1", augment), _crop_config("global_2", augment)),
        local_crops=(_crop_config("local", augment),),
    )


def _draw(
    image: Image.Image, configs: tuple[CropConfig, ...], rng: np.random.Generator
) -> np.ndarray:
    crops = []
    for config in configs:
        for _ in range(config.count):
            parameters = sample_crop_parameters(rng, config, image.height, image.width)
            crops.append(apply_crop(image, parameters, config))
    return np.stack(crops)


def _crop_config(name: str, augment: Any) -> CropConfig:
    entry = augment[name]
    _check_names(f"augment.{name}", entry, [field.name for field in fields(CropConfig)])
    values = {key: entry[key] for key in entry}
    if not isinstance(values["size"], int):
        values["size"] = tuple(values["size"])
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
