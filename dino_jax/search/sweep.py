"""Which weight between two models finds the most, by the user's own pairs."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dino_jax.search.measures import Scores, bootstrap, class_draws

WEIGHTS = tuple(i / 10 for i in range(11))  # of the first model
MEASURE = "recall@1"  # that chooses; equal ones by mAP@R, then the one nearest to half


def sweep(measured: Callable[[float], Scores], resamples: int) -> dict[str, Any]:
    """Measures all weights, and compares the best with each model alone.

    Whole classes are drawn with replacement, the same ones for all weights. The best weight is
    chosen from the pairs that it is measured on, so its lead is a little too large: `range` says
    between which weights the best one lies in 95 % of the draws.

    Args:
      measured: measures of the same queries in the same order for a weight.
      resamples: number of draws.

    Returns:
      {"means": {weight: {measure: mean}}, "best": weight, "range": [low, high], "gains": {weight
      of a single model: {measure: (difference, lower end, upper end)}}}.
    """
    every = {weight: measured(weight) for weight in WEIGHTS}
    means = {weight: scores.means() for weight, scores in every.items()}
    best = max(WEIGHTS, key=lambda weight: _merit(means[weight], weight))
    gains = {
        str(alone): dict(bootstrap(every[alone], every[best], resamples)) for alone in (1.0, 0.0)
    }
    return {
        "means": {str(weight): values for weight, values in means.items()},
        "best": best,
        "range": list(_range(every, resamples)),
        "gains": gains,
    }


def _merit(means: Mapping[str, float], weight: float) -> tuple[float, float, float]:
    return means[MEASURE], means["map@r"], -abs(weight - 0.5)


def _range(every: Mapping[float, Scores], resamples: int) -> tuple[float, float]:
    """Ends of the weights that are best in 95 % of the draws."""
    draws = class_draws(every[WEIGHTS[0]], resamples)
    recalls, precisions = (
        np.stack([draws.means(scores.values[name]) for scores in every.values()])
        for name in (MEASURE, "map@r")
    )
    away = np.abs(np.array(WEIGHTS) - 0.5)[:, None] + np.zeros_like(recalls)
    order = np.lexsort((away, -precisions, -recalls), axis=0)
    low, high = np.percentile(np.array(WEIGHTS)[order[0]], [2.5, 97.5], method="nearest")
    return float(low), float(high)


def lines_of_sweep(found: Mapping[str, Any], names: tuple[str, str]) -> list[str]:
    """What a sweep has found, for people.

    Args:
      found: from `sweep`.
      names: of both models.
    """
    lines = [f"weights of {names[0]}; the rest is that of {names[1]}:"]
    lines.append(f"  {'weight':6} {MEASURE:>9} {'mAP@R':>7}")
    for weight, means in found["means"].items():
        mark = "  <- best" if float(weight) == found["best"] else ""
        lines.append(f"  {weight:6} {means[MEASURE]:9.4f} {means['map@r']:7.4f}{mark}")
    low, high = found["range"]
    lines.append(f"best in 95 % of draws of classes: {low:g} to {high:g}; {found['best']:g} minus")
    for name, gains in zip(names, found["gains"].values(), strict=True):
        for measure in (MEASURE, "map@r"):
            gain, under, over = gains[measure]
            lines.append(f"  {name} alone, {measure:8} {gain:+.4f}  [{under:+.4f}, {over:+.4f}]")
    return lines
