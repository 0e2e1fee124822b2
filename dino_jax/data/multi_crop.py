"""The crops of one image, by groups (SwAV, arXiv:2006.09882; DINO, arXiv:2104.14294 3.1).

A config names any number of crops, and each belongs to a group: "global" and "local" are two such
groups, and names like all others. They are drawn in the order of (group, name), those that take the
box of another one after all the others, whatever the order in the config: adding a crop with
`box_of` changes no other crop.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from dino_jax.config.range import MOST_SIDE
from dino_jax.config.section import named, option, section
from dino_jax.data.augment import (
    CropConfig,
    CropParameters,
    sample_crop_parameters,
    sample_same_box,
    smallest_box,
)
from dino_jax.data.back_ends import (
    BackEnd,
    Batch,
    CanvasBackEnd,
    DeviceBackEnd,
    HostBackEnd,
    Layout,
    resize,
)
from dino_jax.data.decode import REDUCTIONS, Still, decode_image, decode_still
from dino_jax.data.decoding import RGB, Decoding, require_channels
from dino_jax.data.geometry import split_columns
from dino_jax.data.groups import Crop, Group
from dino_jax.data.photometric import blur_taps, encode_photometric, recolor

Frame = np.ndarray | Still  # [H, W, C] uint8
Frames = Frame | Sequence[Frame]  # one, or several: frames of one clip

# Blur probability of a crop from that of the config. The helper in DINOv2's and DINOv3's code blurs
# with 1 - p (dinov3 issue 286), and their released weights were trained that way.
BLURS = {"as_documented": lambda p: p, "as_trained": lambda p: 1 - p}


@dataclass(frozen=True)
class AugmentConfig:
    """The crops of an image. Defaults: the official ones of DINO's vanilla run."""

    backend: Literal["host", "device", "canvas"] = option(
        "host", "the devices recolor the crops, or also cut them (canvas), instead of the workers"
    )
    canvas: tuple[int, int] = option(
        (512, 512),
        "(height, width) in pixels that the canvas back end sends of an image; larger images are "
        "reduced to it",
        at_least=1,
        at_most=MOST_SIDE,
    )
    blur: Literal["as_documented", "as_trained"] = option(
        "as_documented", "with a crop's probability `blur`, or 1 - blur as in the code of DINOv2"
    )
    scaled_decoding: bool = option(
        False, "decode large JPEGs at 1/2, 1/4 or 1/8 of their size where that enlarges no crop"
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


@dataclass(frozen=True)
class MultiCrop:
    """Draws all crops of an image; picklable, so that worker processes can run it.

    Attributes:
      crops: crops by name; those with count 0 are left out.
      backend: who makes the crops: "host", that is `fill`, with an order of the color jitter for
        every crop; "device", which leaves the colors to `dino_jax.step.photometric`, with one order
        for all images of a step; or "canvas", which leaves also cutting and resizing to the
        devices, to `dino_jax.step.canvas`.
      canvas: (height, width) of the arrays that the canvas back end sends, in pixels.
      scaled_decoding: whether `decode` may reduce JPEGs.
      channels: C, of the images.
    """

    crops: Mapping[str, CropConfig]
    backend: str = "host"
    canvas: tuple[int, int] = (512, 512)
    scaled_decoding: bool = False
    channels: int = 3

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

    def layout(self, images: int) -> Layout:
        """Shapes and dtypes of the arrays of some images, see `dino_jax.data.back_ends`.

        Args:
          images: b, number of images.
        """
        return self._back_end.layout(images)

    def begin(self, batch: Batch, step_rng: np.random.Generator) -> None:
        """Writes the values that all images of a step share.

        Args:
          batch: the arrays of `layout`.
          step_rng: the randomness of the step.
        """
        if self._back_end.shares_order:
            orders = {crop.key: step_rng.permutation(4) for crop in self._order}
            for (name, number), config in self._order:
                if config.same_colors:
                    orders[name, number] = orders[config.box_of, number]
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

    def decode(self, data: bytes, max_pixels: int, decoding: Decoding = RGB) -> Frame:
        """Decodes one image file for `fill`.

        Raises:
          UnreadableImageError, MemoryError: as `decode_image`.
        """
        if self.scaled_decoding:
            return decode_still(data, max_pixels, self.reduction, decoding)
        return decode_image(data, max_pixels, decoding)

    def reduction(self, height: int, width: int) -> int:
        """How far an image can be reduced so that no box is smaller than its crop, however drawn.

        Args:
          height: height of the image in pixels.
          width: its width.

        Returns:
          One of `REDUCTIONS`, or 1.
        """

        def suffices(reduction: int) -> bool:
            return all(
                side >= reduction * least
                for crop in self._order
                for side, least in zip(
                    smallest_box(self.crops[crop.config.box_of or crop.key[0]], height, width),
                    crop.config.size,
                    strict=True,
                )
            )

        return next(filter(suffices, REDUCTIONS), 1)

    def fill(self, batch: Batch, row: int, frames: Frames, rng: np.random.Generator) -> None:
        """Writes the crops of one image, or of the frames of one clip, into a batch.

        Args:
          batch: the arrays of `layout`.
          row: row of the batch.
          frames: [H, W, C] uint8, an image from `decode`, or several, whose sizes may differ.
          rng: the randomness of this image.

        Raises:
          ValueError: if the images have another number of channels.
        """
        several = [frames] if isinstance(frames, np.ndarray | Still) else frames
        stills = [
            frame if isinstance(frame, Still) else Still(frame, frame.shape[:2])
            for frame in several
        ]
        for still in stills:
            require_channels(still.pixels, self.channels)
        drawn = self.sample(rng, [still.size for still in stills])
        self._back_end.fill(batch, row, stills, drawn)

    @cached_property
    def _back_end(self) -> BackEnd:
        if self.backend == "canvas":
            return CanvasBackEnd(self.groups, self.canvas, self.channels)
        back_end = {"host": HostBackEnd, "device": DeviceBackEnd}[self.backend]
        return back_end(self.groups, self.channels)

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
      image: [H, W, C] uint8, of any size that holds the box.
      parameters: from `sample_crop_parameters`.
      config: size and solarize threshold.

    Returns:
      [height, width, C] uint8.
    """
    crop = np.empty((1, *config.size, image.shape[2]), np.uint8)
    resized = resize(split_columns(image), [parameters], [config])
    photometric = encode_photometric([parameters], [config], blur_taps([config]))
    recolor(config.colors, resized, photometric, crop)
    return crop[0]


def allocate(multi_crop: MultiCrop, images: int) -> Batch:
    """New arrays for the crops of some images, not initialized."""
    layout = multi_crop.layout(images)
    return {name: np.empty(shape, dtype) for name, (shape, dtype) in layout.items()}


def compile_kernels(multi_crop: MultiCrop) -> None:
    """Compiles the kernels of `fill`, or loads them from disk, where worker processes find them."""
    image = np.zeros((8, 8, multi_crop.channels), np.uint8)
    multi_crop.fill(allocate(multi_crop, 1), 0, image, np.random.default_rng(0))


def build_multi_crop(config: Any, channels: int = 3) -> MultiCrop:
    """Builds the augmentation of `config.augment`, of images with so many channels.

    Raises:
      ValueError: for an unknown entry, a value out of range, or crops that are inconsistent.
    """
    if not isinstance(config, AugmentConfig):
        config = section("config.augment", config, AugmentConfig)
    blur = BLURS[config.blur]
    crops = {name: replace(crop, blur=blur(crop.blur)) for name, crop in config.crops.items()}
    return MultiCrop(crops, config.backend, config.canvas, config.scaled_decoding, channels)


def check_crops(crops: Mapping[str, CropConfig]) -> None:
    """Checks the crops of a table, each by itself and together.

    Raises:
      ValueError: if there are none, low is above high, sizes or colors differ within a group, or a
        box or a group is unknown.
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
        colors = {name: crop.colors for name, crop in drawn.items() if crop.group == group}
        if len(set(colors.values())) > 1:
            raise ValueError(
                f"config.augment.crops: all crops of the group {group!r} must have one arithmetic "
                f"of `colors`, got {colors}; change them, or give some of them another group"
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
    if crop.brightness_adds and crop.colors != "float":
        raise ValueError(
            f"{where}.brightness_adds needs --{where}.colors=float, got {crop.colors!r}"
        )
    if crop.same_colors and not crop.box_of:
        raise ValueError(f"{where}.same_colors needs the name of a crop in --{where}.box_of")
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
