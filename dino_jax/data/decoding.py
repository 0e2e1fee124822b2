"""How an image file becomes pixels: its channels, the range of its numbers, its orientation."""

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from dino_jax.data.levels import Rule, parse_range
from dino_jax.foreign.numbers import Numbers
from dino_jax.foreign.pictures import UnreadableImageError

MOST_CHANNELS = 1000


@dataclass(frozen=True)
class Decoding:
    """How image files become pixels. Defaults: as torchvision's ImageFolder.

    Attributes:
      channels: C, of the pixels.
      range: numbers that become levels 0 and 255, see `levels.parse_range`.
      clip: whether numbers outside of a range LOW,HIGH become these.
      orientation: "apply" or "ignore", the one that EXIF notes.
    """

    channels: int = 3
    range: str = "byte"
    clip: bool = False
    orientation: str = "ignore"

    @cached_property
    def rule(self) -> Rule:
        """Maps the numbers of an image to levels; raises a ValueError if `range` names none."""
        return parse_range("range", self.range, self.clip)

    @property
    def upright(self) -> bool:
        """Whether the orientation of EXIF is applied."""
        return self.orientation == "apply"

    def __call__(self, numbers: Numbers) -> np.ndarray:
        """[H, W, C] uint8, contiguous, of the numbers of an image.

        Raises:
          UnreadableImageError: if channels or range do not fit.
        """
        return np.ascontiguousarray(fit_channels(self.rule(numbers), self.channels, numbers.alpha))

    def describe(self) -> str:
        """One line for people."""
        clipped = ", clipped" if self.clip else ""
        return (
            f"{self.channels} channels, range {self.range}{clipped}, "
            f"EXIF orientation {_WORDS[self.orientation]}"
        )


RGB = Decoding()
_WORDS = {"apply": "applied", "ignore": "ignored"}


def build_decoding(where: str, config: Any, otherwise: Decoding = RGB) -> Decoding:
    """Reads `channels`, `range`, `clip` and `orientation` of a section of images.

    Args:
      where: its dotted name.
      config: the section; options that are 0 or "" are taken from `otherwise`, a range with its
        `clip`.
      otherwise: decoding of the images that these belong to.

    Raises:
      ValueError: if a range or an orientation is unknown, or there is nothing to clip.
    """
    clip = config.clip or (not config.range and otherwise.clip)
    decoding = Decoding(
        config.channels or otherwise.channels,
        config.range or otherwise.range,
        clip,
        config.orientation or otherwise.orientation,
    )
    parse_range(f"{where}.range", decoding.range, clip)
    if decoding.orientation not in _WORDS:
        known = sorted(_WORDS)
        raise ValueError(f"{where}.orientation is {decoding.orientation!r}; known: {known}")
    return decoding


def with_decoding(config: Any, decoding: Decoding) -> Any:
    """A section of images, a dataclass, that says all of how they are decoded."""
    return replace(config, **asdict(decoding))


def fit_channels(pixels: np.ndarray, channels: int, alpha: bool) -> np.ndarray:
    """[H, W, C] of an image with as many channels as asked for, by the rules of docs/images.md.

    Gray is repeated for three channels; opacity is dropped where the others are asked for; three
    equal channels are gray.

    Args:
      pixels: [H, W, c].
      channels: C.
      alpha: whether the last channel is opacity.

    Raises:
      UnreadableImageError: if it has others.
    """
    found = pixels.shape[2]
    if found == channels:
        return pixels
    seen = pixels[..., :-1] if alpha else pixels
    if seen.shape[2] == channels:
        return seen
    if seen.shape[2] == 1 and channels == 3:
        return np.repeat(seen, 3, axis=2)
    if seen.shape[2] == 3 and channels == 1 and (seen == seen[..., :1]).all():
        return seen[..., :1]
    raise UnreadableImageError(
        f"it has {found} channels where {channels} are expected; set channels to {found} "
        "(config.data.channels with config.network.backbone.in_channels, or --channels)"
    )


def require_channels(image: np.ndarray, channels: int) -> None:
    """Raises a ValueError if pixels [H, W, C] have others than a network takes."""
    if image.shape[2] != channels:
        raise ValueError(
            f"the images are decoded to {image.shape[2]} channels, and the network takes "
            f"{channels}; set channels={channels} (config.data.channels, or --channels)"
        )
