"""Who makes the crops of an image: the workers, the devices, or both.

Every back end gets the same drawn parameters and writes one image after another into the arrays of
a batch. What it leaves to the devices is in `dino_jax.step.canvas` and `dino_jax.step.photometric`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dino_jax.data.augment import CropConfig, CropParameters
from dino_jax.data.canvas import BOX_COLUMNS, place
from dino_jax.data.decode import Still
from dino_jax.data.geometry import resize_crops, split_columns
from dino_jax.data.groups import Group
from dino_jax.data.photometric import encode_photometric, recolor
from dino_jax.data.recolor import BLUR, Photometric, interleave_crops

Batch = dict[str, np.ndarray]
Layout = dict[str, tuple[tuple[int, ...], np.dtype]]
Drawn = Mapping[tuple[str, int], CropParameters]  # by `Crop.key`


class BackEnd(Protocol):
    """What a `MultiCrop` asks of its back end."""

    @property
    def shares_order(self) -> bool:
        """Whether all images of a step have one order of the color jitter."""
        ...

    def layout(self, images: int) -> Layout:
        """Shapes and dtypes of the arrays of some images."""
        ...

    def fill(self, batch: Batch, row: int, stills: Sequence[Still], drawn: Drawn) -> None:
        """Writes one image, or the frames of one clip, into a row of the arrays."""
        ...


@dataclass(frozen=True)
class HostBackEnd:
    """The workers do everything.

    Attributes:
      groups: groups of crops by name.
      channels: C, of the images.
    """

    groups: Mapping[str, Group]
    channels: int = 3
    shares_order = False

    def layout(self, images: int) -> Layout:
        """ "GROUP_crops": [b, V, h, w, C] uint8."""
        return {
            f"{name}_crops": (
                (images, len(group.crops), *group.size, self.channels),
                np.dtype(np.uint8),
            )
            for name, group in self.groups.items()
        }

    def fill(self, batch: Batch, row: int, stills: Sequence[Still], drawn: Drawn) -> None:
        """Cuts, resizes and recolors."""
        columns = split_used(stills, self.groups)
        for name, group in self.groups.items():
            crops = cut(stills, columns, group, drawn)
            recolor(group.colors, crops, encode(group, drawn), batch[f"{name}_crops"][row])


@dataclass(frozen=True)
class DeviceBackEnd:
    """The workers cut and resize, the devices recolor; for the attributes see `HostBackEnd`."""

    groups: Mapping[str, Group]
    channels: int = 3
    shares_order = True

    def layout(self, images: int) -> Layout:
        """Those of the host, and what `colors_layout` names."""
        crops = HostBackEnd(self.groups, self.channels).layout(images)
        return crops | colors_layout(self.groups, images)

    def fill(self, batch: Batch, row: int, stills: Sequence[Still], drawn: Drawn) -> None:
        """Cuts and resizes."""
        columns = split_used(stills, self.groups)
        for name, group in self.groups.items():
            crops = cut(stills, columns, group, drawn)
            interleave_crops(crops, batch[f"{name}_crops"][row])
            batch[_colors_name(group)][row] = encode(group, drawn).values


@dataclass(frozen=True)
class CanvasBackEnd:
    """The workers decode, the devices do everything else.

    Attributes:
      groups: groups of crops by name.
      size: (height, width) of a canvas in pixels.
      channels: C, of the images.
    """

    groups: Mapping[str, Group]
    size: tuple[int, int]
    channels: int = 3
    shares_order = True

    def layout(self, images: int) -> Layout:
        """ "canvas": [b, F, C, H, W] uint8, one per frame that some crop is cut from;
        "GROUP_boxes": [b, V, BOX_COLUMNS] float32; and what `colors_layout` names.
        """
        canvas = ((images, len(self._frames()), self.channels, *self.size), np.dtype(np.uint8))
        boxes = {
            f"{name}_boxes": ((images, len(group.crops), BOX_COLUMNS), np.dtype(np.float32))
            for name, group in self.groups.items()
        }
        return {"canvas": canvas} | boxes | colors_layout(self.groups, images)

    def fill(self, batch: Batch, row: int, stills: Sequence[Still], drawn: Drawn) -> None:
        """Writes the images, and where the crops are."""
        frames = self._frames()
        ratios = []  # pixels of the canvas per pixel of the image
        for number, frame in enumerate(frames):
            pixels, _, reduction = stills[frame % len(stills)]
            down, across = place(pixels, batch["canvas"][row, number])
            ratios.append((down / reduction, across / reduction))
        for name, group in self.groups.items():
            rows = []
            for crop in group.crops:
                number = frames.index(crop.config.frame)
                down, across = ratios[number]
                left, top, right, bottom = drawn[crop.key].box
                edges = (left * across, top * down, right * across, bottom * down)
                bilinear = crop.config.resize == "bilinear"
                rows.append((*edges, drawn[crop.key].flip, number, bilinear))
            batch[f"{name}_boxes"][row] = rows
            batch[_colors_name(group)][row] = encode(group, drawn).values

    def _frames(self) -> list[int]:
        """The frames of a clip that crops are cut from, ascending."""
        return sorted({config.frame for group in self.groups.values() for config in group.configs})


def colors_layout(groups: Mapping[str, Group], images: int) -> Layout:
    """The parameters of `dino_jax.step.photometric`.

    Returns:
      For each group "GROUP_photometric": [b, V, P] float32, or "GROUP_colors" in float32
      arithmetic, and "GROUP_jitter_order": [b, V, 4] uint8, the same in every row; their columns
      are those of `dino_jax.data.recolor` or `recolor_float`.
    """
    entries = {}
    for name, group in groups.items():
        rows = (images, len(group.crops))
        entries[_colors_name(group)] = ((*rows, BLUR + group.taps), np.dtype(np.float32))
        entries[f"{name}_jitter_order"] = ((*rows, 4), np.dtype(np.uint8))
    return entries


def _colors_name(group: Group) -> str:
    return group.name + {"pillow": "_photometric", "float": "_colors"}[group.colors]


def encode(group: Group, drawn: Drawn) -> Photometric:
    """The color operations of the crops of a group as numbers."""
    return encode_photometric([drawn[crop.key] for crop in group.crops], group.configs, group.taps)


def split_used(stills: Sequence[Still], groups: Mapping[str, Group]) -> dict[int, np.ndarray]:
    """The frames that crops are cut from, for `cut`, by their number."""
    used = {config.frame % len(stills) for group in groups.values() for config in group.configs}
    return {frame: split_columns(stills[frame].pixels) for frame in used}


def cut(
    stills: Sequence[Still], columns: Mapping[int, np.ndarray], group: Group, drawn: Drawn
) -> np.ndarray:
    """All crops of a group, each from its frame: [V, C, h, w] uint8."""
    parameters = [drawn[crop.key] for crop in group.crops]
    of_crop = [config.frame % len(stills) for config in group.configs]
    if len(set(of_crop)) == 1:  # without a copy, for still images
        frame = of_crop[0]
        return resize(columns[frame], parameters, group.configs, stills[frame].reduction)
    channels = len(columns[of_crop[0]])
    crops = np.empty((len(parameters), channels, *group.size), np.uint8)
    for frame in set(of_crop):
        rows = [row for row, other in enumerate(of_crop) if other == frame]
        chosen = [parameters[row] for row in rows]
        configs = [group.configs[row] for row in rows]
        crops[rows] = resize(columns[frame], chosen, configs, stills[frame].reduction)
    return crops


def resize(
    columns: np.ndarray,
    parameters: Sequence[CropParameters],
    configs: Sequence[CropConfig],
    reduction: int = 1,
) -> np.ndarray:
    """Crops of one frame and one size, cut, resized and flipped: [V, C, h, w] uint8."""
    boxes = np.array([one.box for one in parameters], np.float64) / reduction
    flips = np.array([one.flip for one in parameters])
    bilinear = np.array([config.resize == "bilinear" for config in configs])
    return resize_crops(columns, boxes, flips, *configs[0].size, bilinear)
