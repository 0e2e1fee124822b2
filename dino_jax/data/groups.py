"""The crops of an image by groups: those of one group have one size and one array in a batch."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from dino_jax.data.augment import CropConfig


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
      taps: columns of the parameters that `photometric.blur_taps` counts.
    """

    name: str
    crops: tuple[Crop, ...]
    size: tuple[int, int]
    taps: int

    @property
    def colors(self) -> str:
        """The arithmetic of their colors, see `CropConfig`."""
        return self.crops[0].config.colors

    @cached_property
    def configs(self) -> list[CropConfig]:
        """Distributions of the crops, in their order."""
        return [crop.config for crop in self.crops]
