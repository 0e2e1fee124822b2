"""The crops of one image, by groups (SwAV, arXiv:2006.09882; DINO, arXiv:2104.14294 3.1).

A config names any number of crops, and each belongs to a group: "global" and "local" are two such
groups, and names like all others. They are drawn in the order of (group, name), those that take the
box of another one after all the others, whatever the order in the config: adding a crop with
`box_of` changes no other crop.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from dino_jax.config.section import named, option, section
from dino_jax.data.augment import (
    CropConfig,
    CropParameters,
    sample_crop_parameters,
    sample_same_box,
)
from dino_jax.data.geometry import resize_crops, split_columns
from dino_jax.data.photometric import blur_taps, encode_photometric
from dino_jax.data.recolor import BLUR, interleave_crops, recolor_crops

Batch = dict[str, np.ndarray]
Frames = np.ndarray | Sequence[np.ndarray]  # [H, W, 3] uint8 RGB, or several: frames of one clip

# Blur probability of a crop from that of the config. The helper in DINOv2's and DINOv3's code blurs
# with 1 - p (dinov3 issue 286), and their released weights were trained that way.
BLURS = {"as_documented": lambda p: p, "as_trained": lambda p: 1 - p}


@dataclass(frozen=True)
class AugmentConfig:
    """The crops of an image. Defaults: the official ones of DINO's vanilla run."""

    backend: Literal["host", "device"] = option("host", "who recolors the crops")
    blur: Literal["as_documented", "as_trained"] = option(
        "as_documented", "with a crop's probability `blur`, or 1 - blur as in the code of DINOv2"
    )
    crops: dict[str, CropConfig] = named(
        CropConfig,
        {
            "global_1": CropConfig(),
            "global_2": CropConfig(blur=0.1, solarize=0.2),
            "local": CropConfig("local", 8, (96, 96), (0.05, 0.4), blur=0.5),
        },
        "kinds of crops by name",
    )


class Crop(NamedTuple):
    """One crop of an image.

    Attributes:
      key: its name in the config, and its number among the crops of that name.
      config: distributions of its parameters.
    """

    key: tuple[str, int]
    config: CropConfig


@dataclass(frozen=True)
class Group:
    """Crops of one size, in one array of the batch.

    Attributes:
      name: name of the group; the array is "NAME_crops".
      crops: crops in the order of the array, which is that of drawing.
      size: (height, width) in pixels.
      taps: columns of the parameters that hold blur weights.
    """

    name: str
    crops: tuple[Crop, ...]
    size: tuple[int, int]
    taps: int


@dataclass(frozen=True)
class MultiCrop:
    """Draws all crops of an image; picklable, so that worker processes can run it.

    Attributes:
      crops: crops by name; those with count 0 are left out.
      backend: who recolors the crops: "host", that is `fill`, with an order of the color jitter for
        every crop; or "device", that is `dino_jax.step.photometric`, with one order for all images
        of a step.
    """

    crops: Mapping[str, CropConfig]
    backend: str = "host"

    def __post_init__(self):
        check_crops(self.crops)

    @cached_property
    def groups(self) -> dict[str, Group]:
        """The groups that have crops, in the order of their names."""
        groups = {}
        for name in sorted({crop.config.group for crop in self._order}):
            crops = tuple(crop for crop in self._order if crop.config.group == name)
            configs = [crop.config for crop in crops]
            groups[name] = Group(name, crops, configs[0].size, blur_taps(configs))
        return groups

    def layout(self, images: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shapes and dtypes of the crops of some images.

        Args:
          images: b, number of images.

        Returns:
          For each group "GROUP_crops": [b, V, H, W, 3] uint8. With the device back end also
          "GROUP_photometric": [b, V, P] float32 and "GROUP_jitter_order": [b, V, 4] uint8, the same
          in every row; their columns are those of `dino_jax.data.recolor`.
        """
        entries = {}
        for name, group in self.groups.items():
            rows = (images, len(group.crops))
            entries[f"{name}_crops"] = ((*rows, *group.size, 3), np.dtype(np.uint8))
            if self.backend == "device":
                columns = BLUR + group.taps
                entries[f"{name}_photometric"] = ((*rows, columns), np.dtype(np.float32))
                entries[f"{name}_jitter_order"] = ((*rows, 4), np.dtype(np.uint8))
        return entries

    def begin(self, batch: Batch, step_rng: np.random.Generator) -> None:
        """Writes the values that all images of a step share.

        Args:
          batch: the arrays of `layout`.
          step_rng: the randomness of the step.
        """
        if self.backend == "device":
            orders = {crop.key: step_rng.permutation(4) for crop in self._order}
            for name, group in self.groups.items():
                batch[f"{name}_jitter_order"][:] = [orders[crop.key] for crop in group.crops]

    def sample(
        self, rng: np.random.Generator, sizes: Sequence[tuple[int, int]]
    ) -> dict[tuple[str, int], CropParameters]:
        """Draws all random choices of the crops of one image, by `Crop.key`.

        Args:
          rng: the randomness of this image.
          sizes: (height, width) of its frames in pixels.
        """
        drawn: dict[tuple[str, int], CropParameters] = {}
        for (name, number), config in self._order:
            if config.box_of:
                parameters = sample_same_box(rng, config, drawn[config.box_of, number])
            else:
                height, width = sizes[config.frame % len(sizes)]
                parameters = sample_crop_parameters(rng, config, height, width)
            drawn[name, number] = parameters
        return drawn

    def fill(self, batch: Batch, row: int, frames: Frames, rng: np.random.Generator) -> None:
        """Writes the crops of one image, or of the frames of one clip, into a batch.

        Args:
          batch: the arrays of `layout`.
          row: row of the batch.
          frames: [H, W, 3] uint8 RGB, or several such arrays, whose sizes may differ.
          rng: the randomness of this image.
        """
        stills = [frames] if isinstance(frames, np.ndarray) else frames
        drawn = self.sample(rng, [still.shape[:2] for still in stills])
        used = {crop.config.frame % len(stills) for crop in self._order}
        columns = {frame: split_columns(stills[frame]) for frame in used}
        for name, group in self.groups.items():
            parameters = [drawn[crop.key] for crop in group.crops]
            crops = _cut(columns, len(stills), group, parameters)
            photometric = encode_photometric(
                parameters, [crop.config for crop in group.crops], group.taps
            )
            if self.backend == "host":
                recolor_crops(crops, photometric, batch[f"{name}_crops"][row])
            else:
                interleave_crops(crops, batch[f"{name}_crops"][row])
                batch[f"{name}_photometric"][row] = photometric.values

    @cached_property
    def _order(self) -> tuple[Crop, ...]:
        """All crops of an image in the order of drawing."""
        names = sorted(
            self.crops,
            key=lambda name: (bool(self.crops[name].box_of), self.crops[name].group, name),
        )
        return tuple(
            Crop((name, number), self.crops[name])
            for name in names
            for number in range(self.crops[name].count)
        )


def apply_crop(image: np.ndarray, parameters: CropParameters, config: CropConfig) -> np.ndarray:
    """Cuts, resizes and recolors in the official order: crop, flip, jitter, gray, blur, solarize.

    Args:
      image: [H, W, 3] uint8 RGB, of any size that holds the box.
      parameters: from `sample_crop_parameters`.
      config: size and solarize threshold.

    Returns:
      [height, width, 3] uint8.
    """
    crop = np.empty((1, *config.size, 3), np.uint8)
    resized = _resize(split_columns(image), [parameters], config.size)
    photometric = encode_photometric([parameters], [config], blur_taps([config]))
    recolor_crops(resized, photometric, crop)
    return crop[0]


def allocate(multi_crop: MultiCrop, images: int) -> Batch:
    """New arrays for the crops of some images, not initialized."""
    layout = multi_crop.layout(images)
    return {name: np.empty(shape, dtype) for name, (shape, dtype) in layout.items()}


def compile_kernels(multi_crop: MultiCrop) -> None:
    """Compiles the kernels of `fill`, or loads them from disk, where worker processes find them."""
    image = np.zeros((8, 8, 3), np.uint8)
    multi_crop.fill(allocate(multi_crop, 1), 0, image, np.random.default_rng(0))


def build_multi_crop(config: Any) -> MultiCrop:
    """Builds the augmentation of `config.augment`.

    Raises:
      ValueError: for an unknown entry, a value out of range, or crops that are inconsistent.
    """
    if not isinstance(config, AugmentConfig):
        config = section("config.augment", config, AugmentConfig)
    blur = BLURS[config.blur]
    crops = {name: replace(crop, blur=blur(crop.blur)) for name, crop in config.crops.items()}
    return MultiCrop(crops, config.backend)


def check_crops(crops: Mapping[str, CropConfig]) -> None:
    """Checks the crops of a table, each by itself and together.

    Raises:
      ValueError: if there are none, low is above high, sizes differ within a group, or a box or a
        group is unknown.
    """
    drawn = {name: crop for name, crop in sorted(crops.items()) if crop.count}
    if not drawn:
        raise ValueError("config.augment.crops has no crop with a count above 0; set one to 1")
    for name, crop in drawn.items():
        _check_crop(f"config.augment.crops.{name}", crop, drawn)
    for group in {crop.group for crop in drawn.values()}:
        sizes = {name: crop.size for name, crop in drawn.items() if crop.group == group}
        if len(set(sizes.values())) > 1:
            raise ValueError(
                f"config.augment.crops: all crops of the group {group!r} must have one (height, "
                f"width), got {sizes}; change them, or give some of them another group"
            )


def check_patches(groups: Mapping[str, Group], patch_size: int) -> None:
    """Checks that every crop holds at least one patch.

    Args:
      groups: groups of a `MultiCrop`.
      patch_size: patch size of the backbone, in pixels.

    Raises:
      ValueError: names the crops that are too small.
    """
    for group in groups.values():
        if min(group.size) < patch_size:
            name, _ = group.crops[0].key
            raise ValueError(
                f"config.augment.crops.{name}.size {group.size} is less than one patch of "
                f"{patch_size} pixels; use larger ones or a smaller "
                "--config.network.backbone.patch_size"
            )


def _check_crop(where: str, crop: CropConfig, drawn: Mapping[str, CropConfig]) -> None:
    if not crop.group.isidentifier():
        raise ValueError(f"{where}.group must be a name of letters and digits, got {crop.group!r}")
    for option_name in ("scale", "ratio", "blur_radius"):
        low, high = getattr(crop, option_name)
        if low > high:
            raise ValueError(f"{where}.{option_name} must be (low, high), got ({low}, {high})")
    if not crop.box_of:
        return
    own = [name for name, other in drawn.items() if not other.box_of]
    if crop.box_of not in own:
        raise ValueError(
            f"{where}.box_of is {crop.box_of!r}; crops with a box of their own: {', '.join(own)}"
        )
    other = drawn[crop.box_of]
    if (crop.count, crop.frame) != (other.count, other.frame):
        raise ValueError(
            f"{where} has count {crop.count} and frame {crop.frame}, but {crop.box_of}, whose box "
            f"it takes, has {other.count} and {other.frame}; make them equal"
        )


def _cut(
    columns: Mapping[int, np.ndarray],
    frames: int,
    group: Group,
    parameters: Sequence[CropParameters],
) -> np.ndarray:
    """All crops of a group, each from its frame: [V, 3, h, w] uint8."""
    of_crop = [crop.config.frame % frames for crop in group.crops]
    if len(set(of_crop)) == 1:  # without a copy, for still images
        return _resize(columns[of_crop[0]], parameters, group.size)
    crops = np.empty((len(parameters), 3, *group.size), np.uint8)
    for frame in set(of_crop):
        rows = [row for row, other in enumerate(of_crop) if other == frame]
        crops[rows] = _resize(columns[frame], [parameters[row] for row in rows], group.size)
    return crops


def _resize(
    columns: np.ndarray, parameters: Sequence[CropParameters], size: tuple[int, int]
) -> np.ndarray:
    boxes = np.array([one.box for one in parameters])
    flips = np.array([one.flip for one in parameters])
    return resize_crops(columns, boxes, flips, *size)
