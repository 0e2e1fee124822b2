"""Kinds of arguments of a command line: each has its range, and argparse names the option.

  add("--threads", type=THREADS, default=8, help="that decode")

  error: argument --threads: must be at least 1, got -1; see dino-jax embed --help

Every number of a command line is a `Number`, and what has to be given at all is `filled`.
"""

import argparse
from dataclasses import dataclass

from dino_jax.config.range import MOST_IMAGES, MOST_SIDE, Range, shorten


@dataclass(frozen=True)
class Number:
    """The type of an option that takes numbers.

    Attributes:
      kind: int or float.
      range: range of the number.
    """

    kind: type[int] | type[float]
    range: Range

    def __call__(self, text: str) -> float:
        """Reads it; raises an ArgumentTypeError if it is another one."""
        try:
            number = self.kind(text)
        except ValueError:
            what = "an integer" if self.kind is int else "a number"
            message = f"expected {what}, got {shorten(text)}"
            raise argparse.ArgumentTypeError(message) from None
        if wrong := self.range.object_to(number):
            raise argparse.ArgumentTypeError(wrong)
        return number


def whole(at_least: int, at_most: int | None = None) -> Number:
    """Integers of a range; without an end, up to the largest of `Range`."""
    return Number(int, Range(at_least=at_least, at_most=at_most))


def real(
    *, at_least: float | None = None, above: float | None = None, at_most: float | None = None
) -> Number:
    """Finite numbers of a range."""
    return Number(float, Range(at_least=at_least, above=above, at_most=at_most))


def filled(text: str) -> str:
    """A text that is not empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty")
    return text


COUNT = whole(1)
STEP = whole(0)  # of a checkpoint
BATCH = whole(1, MOST_IMAGES)  # images at once
SIDE = whole(1, MOST_SIDE)  # pixels that a network sees
OVERLAP = whole(0, MOST_SIDE)  # pixels
LAYERS = whole(1, 1000)
CHANNELS = whole(1, 1000)  # of an image
THREADS = whole(1, 1024)
WORKERS = whole(0, 1024)  # 0: this process only
SEED = whole(0, 2**32 - 1)  # what jax.random.key takes without losing bits
SHARE = real(at_least=0, at_most=1)
POSITIVE = real(above=0, at_most=1e9)
NOT_NEGATIVE = real(at_least=0, at_most=1e9)


def size(text: str) -> tuple[int, int]:
    """(height, width) in pixels, from "518" or "224x336"."""
    sides = text.split("x") if "x" in text else [text, text]
    if len(sides) != 2:
        raise argparse.ArgumentTypeError(f"expected 518 or 224x336, got {shorten(text)}")
    return int(SIDE(sides[0])), int(SIDE(sides[1]))
