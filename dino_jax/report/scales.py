"""Axes: limits, ticks at round numbers, and readable numbers."""

import math
from dataclasses import dataclass

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MINUS, TIMES = "\u2212", "\u00d7"


@dataclass(frozen=True)
class Scale:
    """Maps values to [0, 1], linearly or by their logarithm.

    Attributes:
      low: value at 0; positive if `log`.
      high: value at 1, above `low`.
      ticks: round values within the limits, ascending.
      log: whether distances are ratios.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def __call__(self, value: float) -> float:
        """Position of a value; values beyond the limits are clipped."""
        low, high, x = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, x = math.log(low), math.log(high), math.log(x)
        return (x - low) / (high - low)


def linear_scale(low: float, high: float, ticks: int = 4, exact: bool = False) -> Scale:
    """A scale over [low, high] with ticks at 1, 2, 2.5 or 5 times a power of ten.

    Args:
      low: lower limit, finite.
      high: upper limit, finite, at least `low`; equal limits are widened.
      ticks: approximate number of ticks.
      exact: keeps the limits; otherwise they are widened to the ticks around them.
    """
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # closer than ticks can tell
        room = abs(low) / 2 or 1.0
        low, high = low - room, high + room
    spacing = _round_spacing((high - low) / ticks)
    first, last = math.floor(low / spacing + 1e-9), math.ceil(high / spacing - 1e-9)
    if exact:
        first, last = math.ceil(low / spacing - 1e-9), math.floor(high / spacing + 1e-9)
    # Rounded, so that 3 * 0.1 is 0.3.
    digits = max(0, 2 - math.floor(math.log10(spacing)))
    marks = tuple(round(index * spacing, digits) for index in range(first, last + 1))
    return Scale(low, high, marks) if exact else Scale(marks[0], marks[-1], marks)


def log_scale(low: float, high: float) -> Scale:
    """A scale over positive values between two powers of ten."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    last = max(last, first + 1)
    every = -(-(last - first) // 5)
    marks = tuple(10.0**power for power in range(first, last + 1, every))
    return Scale(10.0**first, 10.0**last, marks, log=True)


def format_ticks(scale: Scale) -> tuple[list[str], str]:
    """Labels of the ticks and the factor written once beside them ("×10⁻⁴", or "")."""
    if scale.log:
        return [_power(tick) for tick in scale.ticks], ""
    largest = max(abs(tick) for tick in scale.ticks)
    if largest >= 1e9 or 0 < largest < 0.01:
        exponent = math.floor(math.log10(largest))
        scaled = [tick / 10.0**exponent for tick in scale.ticks]
        return [_shortest(x) for x in scaled], f"{TIMES}10{str(exponent).translate(SUPERSCRIPTS)}"
    for size, suffix in ((1e6, "M"), (1e3, "k")):
        if largest >= 10 * size or (size == 1e6 and largest >= size):
            return [_shortest(x / size) + (suffix if x else "") for x in scale.ticks], ""
    return _aligned(scale.ticks), ""


def format_count(value: float) -> str:
    """A whole number with thin spaces between thousands: 1200 is "1 200" with U+202F."""
    return f"{round(value):,}".replace(",", "\u202f").replace("-", MINUS)


def format_value(value: float) -> str:
    """Four significant digits, as ×10ⁿ if very large or small; "not finite" for NaN."""
    size = abs(value)
    if not math.isfinite(value):
        return "not finite"
    if size >= 1e6 or 0 < size < 1e-3:
        exponent = math.floor(math.log10(size))
        mantissa = _shortest(float(f"{value / 10.0**exponent:.3g}"))
        return f"{mantissa}{TIMES}10{str(exponent).translate(SUPERSCRIPTS)}"
    if size >= 1000:
        return format_count(value)
    return _shortest(float(f"{value:.4g}"))


def _round_spacing(least: float) -> float:
    """The smallest of 1, 2, 2.5, 5, 10 times a power of ten that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(m * power for m in (1, 2, 2.5, 5, 10, 20) if m * power >= least * (1 - 1e-9))


def _aligned(values: tuple[float, ...]) -> list[str]:
    """Formats all with the number of decimals that the longest needs."""
    needed = max(len(_shortest(x).partition(".")[2]) for x in values)
    return [f"{x:.{needed}f}".replace("-", MINUS) for x in values]


def _shortest(value: float) -> str:
    text = f"{value:.10g}"
    return ("0" if text == "-0" else text).replace("-", MINUS)


def _power(value: float) -> str:
    exponent = round(math.log10(value))
    plain = {-2: "0.01", -1: "0.1", 0: "1", 1: "10", 2: "100", 3: "1000"}
    return plain.get(exponent, f"10{str(exponent).translate(SUPERSCRIPTS)}")
