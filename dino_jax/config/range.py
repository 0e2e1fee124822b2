"""Ranges of numbers: of options of a config and of arguments of a command line."""

import dataclasses
import math

# Beyond these a number changes on its way to a device: int32 and float32 are all that a step knows.
MOST_INTEGER = 2**31 - 1
LARGEST, SMALLEST = 3.4e38, 1.2e-38  # magnitudes that float32 holds; smaller ones count as 0
# What no run will ever need more of: typing errors end here, and not in a program without memory.
MOST_EPOCHS = 1_000_000
MOST_IMAGES = 1 << 20  # in a batch
MOST_SIDE = 1 << 14  # of an image, in pixels
MAX_PIXELS = 178_956_970  # Pillow's own limit; the default of config.max_pixels
MOST_WIDTH = 1 << 17  # of a layer
_WORDS = {"at_least": "at least", "above": "above", "at_most": "at most", "below": "below"}


@dataclasses.dataclass(frozen=True)
class Range:
    """Range of a number, or of every number of a tuple; None: no bound of its own."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def __str__(self) -> str:
        stated = {_WORDS[k]: v for k, v in dataclasses.asdict(self).items() if v is not None}
        return " and ".join(f"{word} {value:.12g}" for word, value in stated.items())

    def object_to(self, value: float) -> str:
        """What is wrong with a number, "must be at least 1, got 0"; "" if it is within the bounds.

        Nan, infinity and what neither int32 nor float32 holds never are; an int may be as large as
        `at_most` says.
        """
        expected = self._expect(value)
        return f"must be {expected}, got {shorten(value)}" if expected else ""

    def _expect(self, value: float) -> str:
        if isinstance(value, float) and not math.isfinite(value):
            return "a finite number"
        if not (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
        ):
            return str(Range(self.at_least, self.above))  # the other end may be far away
        if not (
            (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        ):
            return str(self)
        most = LARGEST if isinstance(value, float) else self.at_most or MOST_INTEGER
        if abs(value) > most:
            return f"at most {most:.12g}"
        if isinstance(value, float) and 0 < abs(value) < SMALLEST:
            return f"{'' if self.above == 0 else '0 or '}at least {SMALLEST:g} in size"
        return ""


def shorten(value: object, most: int = 40) -> str:
    """A value as it is written, cut to a length that fits into a message."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integers of thousands of digits
        text = "an integer of thousands of digits"
    return text if len(text) <= most else f"{text[:most]}…"
