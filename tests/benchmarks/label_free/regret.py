"""How well a measure without labels orders the checkpoints of a run."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import spearmanr

Points = Sequence[Mapping[str, Any]]  # checkpoints of a run with "step", "knn" and measures
Score = Callable[[Mapping[str, Any]], float]


def named(metric: str) -> Score:
    """The metric itself: more is better."""
    return lambda point: point.get(metric, math.nan)


RULES: dict[str, Score] = {
    "the last checkpoint": named("step"),
    "RankMe": named("proxy/rankme"),
    "alpha-ReQ, nearest to 1": lambda point: -abs(point["proxy/decay"] - 1),
    "LiDAR": named("views/lidar/teacher"),
    "retrieval of 8 views": named("views/retrieval/teacher"),
    "retrieval of 2 views": named("proxy/retrieval"),
    "agreement of teacher and student": named("proxy/agreement"),
    "stability of neighbors": named("proxy/stability"),
}


class Quality(NamedTuple):
    """Of a rule on one run.

    Attributes:
      correlation: Spearman's, of score and accuracy over the checkpoints; nan for a constant score.
      regret: points of accuracy that the chosen checkpoint lacks to the best one.
    """

    correlation: float
    regret: float


def judge(score: Score, points: Points) -> Quality:
    """Quality of a rule; of equal scores the newest is chosen, points without a score never."""
    scored = [(score(point), point["knn"]) for point in points]
    scored = [pair for pair in scored if math.isfinite(pair[0])]
    scores, accuracies = (np.array(column) for column in zip(*scored, strict=True))
    newest_best = len(scores) - 1 - int(np.argmax(scores[::-1]))
    regret = max(point["knn"] for point in points) - accuracies[newest_best]
    varied = np.ptp(scores) > 0 and np.ptp(accuracies) > 0
    return Quality(float(spearmanr(scores, accuracies)[0]) if varied else math.nan, float(regret))


def describe(found: Mapping[str, Mapping[str, Points]]) -> list[str]:
    """A Markdown table: rules x (mean correlation, mean and worst regret), of all sets and each."""
    sets = list(found)
    runs = [points for images in found.values() for points in images.values()]
    lines = [
        f"{len(runs)} runs of {len(sets)} sets",
        "",
        "| rule | correlation | regret, mean | worst | " + " | ".join(sets) + " |",
        "|---" * (4 + len(sets)) + "|",
    ]
    for name, score in RULES.items():
        every = [judge(score, points) for points in runs]
        by_set = [
            np.mean([judge(score, points).regret for points in found[images].values()])
            for images in sets
        ]
        correlations = [quality.correlation for quality in every]
        known = [x for x in correlations if math.isfinite(x)]
        mean = f"{np.mean(known):.2f}" if known else "none"
        regrets = [quality.regret for quality in every]
        cells = [mean, f"{np.mean(regrets):.1f}", f"{max(regrets):.1f}"]
        cells += [f"{value:.1f}" for value in by_set]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines
