"""Which checkpoint of a run to use."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass
class Best:
    """The best teacher so far by k-NN accuracy, or without labels by RankMe (arXiv:2210.02885).

    Attributes:
      step: of that evaluation, None before the first one.
      metric: by which it was chosen, such as "knn10/teacher" or "proxy/rankme".
      value: of the metric.
    """

    step: int | None = None
    metric: str = ""
    value: float = -math.inf

    def add(self, step: int, metrics: Mapping[str, Any]) -> bool:
        """Takes the metrics of a step; whether they are an evaluation and at least as good.

        That of step 0 does not count: a random initialisation is no checkpoint.
        """
        metric = deciding_metric(metrics)
        value = metrics[metric] if metric else None
        if step == 0 or value is None or not value >= self.value:
            return False
        self.step, self.metric, self.value = step, str(metric), value
        return True

    def describe(self, kept: Sequence[int]) -> str:
        """One line about the checkpoint to use.

        Args:
          kept: steps of the checkpoints on disk.
        """
        if self.step is None:
            return "no evaluation, so no advice which checkpoint to use"
        lost = "" if self.step in kept else ", but there is no checkpoint of it"
        unit = " %" if self.metric.startswith("knn") else ""
        return f"best teacher: step {self.step}, {self.metric} {self.value:.3g}{unit}{lost}"


def deciding_metric(metrics: Mapping[str, Any]) -> str | None:
    """The k-NN accuracy of the teacher with the first k, else the student's, else RankMe."""
    judged = ("/teacher", "/student")
    names = [name for name in metrics if name.startswith("knn") and name.endswith(judged)]
    names = [name for name in names if name.endswith("/teacher")] or names
    names += [name for name in metrics if name == "proxy/rankme"]
    return names[0] if names else None
