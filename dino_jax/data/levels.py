"""From the numbers of an image to the 256 levels that crops and networks take: the rules."""

import re
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dino_jax.foreign.numbers import Numbers
from dino_jax.foreign.pictures import UnreadableImageError

LIMITS = "LOW,HIGH or LOW%,HIGH% (config.data.range, or --range of a command)"
HOW = f"full, {LIMITS}"
_NUMBER = r"\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*"
_LIMITS = re.compile(f"{_NUMBER},{_NUMBER}")
_PERCENTILES = re.compile(f"{_NUMBER}%,{_NUMBER}%")


class Rule(Protocol):
    """Maps the numbers of an image to levels."""

    def __call__(self, numbers: Numbers) -> np.ndarray:
        """[H, W, C] uint8; raises an UnreadableImageError if the rule does not fit the numbers."""
        ...


@dataclass(frozen=True)
class Bytes:
    """Images of 8 bits per channel as they are, and no others."""

    def __call__(self, numbers: Numbers) -> np.ndarray:
        if numbers.is_bytes:
            return numbers.values
        how = LIMITS if numbers.ends is None else HOW
        raise UnreadableImageError(
            f"{_describe(numbers)}, of which 8 bits would be a part; set range to {how}"
        )


@dataclass(frozen=True)
class Full:
    """From the smallest number that the type can hold to the largest one."""

    def __call__(self, numbers: Numbers) -> np.ndarray:
        if numbers.ends == (0, 255):
            return numbers.values
        if numbers.ends is None:
            raise UnreadableImageError(
                f"{_describe(numbers)}, which have no full range; set range to {LIMITS}"
            )
        return _spread(numbers.values, *numbers.ends)


@dataclass(frozen=True)
class Limits:
    """From `low` to `high`; numbers beyond are an error, or become the limits."""

    low: float
    high: float
    clip: bool = False

    def __call__(self, numbers: Numbers) -> np.ndarray:
        values = whole_numbers(numbers)
        if not self.clip:
            least, most = values.min(), values.max()
            if least < self.low or most > self.high:
                raise UnreadableImageError(
                    f"its numbers, {least:g} to {most:g}, lie outside of range={self.low:g},"
                    f"{self.high:g}; widen it, or set clip (config.data.clip, --clip)"
                )
        return _spread(values, self.low, self.high)


@dataclass(frozen=True)
class Percentiles:
    """From one percentile of each channel of an image to another; numbers beyond become these."""

    low: float
    high: float

    def __call__(self, numbers: Numbers) -> np.ndarray:
        values = whole_numbers(numbers)
        planes = []
        for plane in np.moveaxis(values, 2, 0):
            low, high = np.percentile(plane, (self.low, self.high))
            flat = not low < high
            planes.append(np.zeros(plane.shape, np.uint8) if flat else _spread(plane, low, high))
        return np.stack(planes, axis=2)


def parse_range(where: str, text: str, clip: bool) -> Rule:
    """The rule that an option names.

    Args:
      where: name of the option, for messages.
      text: "byte", "full", "LOW,HIGH" or "LOW%,HIGH%".
      clip: see `Limits`.

    Raises:
      ValueError: if it is something else, LOW is not below HIGH, or there is nothing to clip.
    """
    rule = _parse(text)
    if rule is None:
        raise ValueError(f"{where} is {text!r}; expected byte, {HOW}")
    if isinstance(rule, Limits | Percentiles) and not rule.low < rule.high:
        raise ValueError(f"{where} is {text!r}; the first number must be the lower one")
    if isinstance(rule, Percentiles) and not 0 <= rule.low < rule.high <= 100:
        raise ValueError(f"{where} is {text!r}; percentiles are 0 to 100")
    if not clip:
        return rule
    if not isinstance(rule, Limits):
        raise ValueError(f"{where} is {text!r}; only numbers outside of LOW,HIGH can be clipped")
    return Limits(rule.low, rule.high, clip=True)


def _parse(text: str) -> Rule | None:
    if text in ("byte", "full"):
        return Bytes() if text == "byte" else Full()
    try:
        if found := _LIMITS.fullmatch(text):
            return Limits(float(found[1]), float(found[2]))
        if found := _PERCENTILES.fullmatch(text):
            return Percentiles(float(found[1]), float(found[2]))
    except ValueError:  # such as 1.2.3
        pass
    return None


def _describe(numbers: Numbers) -> str:
    if not numbers.complete:
        return f"its numbers are {numbers.kind}"
    return f"its numbers are {numbers.kind}, {numbers.values.min():g} to {numbers.values.max():g}"


def whole_numbers(numbers: Numbers) -> np.ndarray:
    """All bits of finite numbers: [H, W, C].

    Raises:
      UnreadableImageError: if some are not known or not finite.
    """
    if not numbers.complete:
        raise UnreadableImageError(
            f"its numbers are {numbers.kind}, of which Pillow gives the upper 8 bits only: set "
            "range to full, or save it as an .npy file"
        )
    if numbers.values.dtype.kind == "f" and not np.isfinite(numbers.values).all():
        raise UnreadableImageError("it holds numbers that are not finite (NaN or infinite)")
    return numbers.values


def _spread(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """uint8 levels, rounded: 0 at `low`, 255 at `high`; what lies beyond becomes these."""
    precise = np.float32 if values.dtype.itemsize <= 2 or values.dtype == np.float32 else np.float64
    with np.errstate(over="ignore"):  # of numbers that are cut off
        spread = (values.astype(precise) - precise(low)) * precise(255 / (high - low))
    return np.clip(np.rint(spread), 0, 255).astype(np.uint8)
