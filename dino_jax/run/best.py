"""The checkpoint of a run to use."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

RETRIEVAL = "proxy/retrieval"


@dataclasses.dataclass
class Best:
    """The best network so far by k-NN accuracy, or without labels by the retrieval of views.

    What a gain over the first network is worth decides, if there is one; else the accuracy of the
    role with the first k; without it the student's; without both, the share of views that find
    their image, which orders checkpoints better than RankMe (arXiv:2210.02885) does
    (docs/small_data.md); without that, RankMe. Once a stronger criterion exists, weaker ones are
    ignored.

    Attributes:
      role: role that stands for the run.
      step: step of the best evaluation, None before the first one.
      metric: metric by which it was chosen, such as "knn10/teacher" or "proxy/retrieval".
      value: value of the metric.
      reached: step at which there was such a value first.
      since: evaluations after that step.
    """

    role: str = "teacher"
    step: int | None = None
    metric: str = ""
    value: float = -math.inf
    reached: int | None = None
    since: int = 0

    def add(self, step: int, metrics: Mapping[str, Any]) -> bool:
        """Takes the metrics of a step; returns whether they are an evaluation and at least as good.

        That of step 0 does not count: a random initialization is not worth a checkpoint.
        """
        metric = self._deciding(metrics)
        value = metrics[metric] if metric else None
        if step == 0 or value is None or math.isnan(value):
            return False
        ours, theirs = self._rank(metric), self._rank(self.metric)
        if ours < theirs or (ours == theirs and value > self.value):
            self.reached, self.since = step, 0
        else:
            self.since += ours == theirs
        if ours > theirs or (ours == theirs and value < self.value):
            return False
        self.step, self.metric, self.value = step, metric, value
        return True

    def describe(self, kept: Sequence[int]) -> str:
        """One line about the checkpoint to use.

        Args:
          kept: steps of the checkpoints on disk.
        """
        if self.step is None:
            return "no evaluation, so no advice on which checkpoint to use"
        lost = "" if self.step in kept else ", but there is no checkpoint of it"
        unit = " %" if self.metric.startswith(("knn", RETRIEVAL)) else ""
        return f"best {self.role}: step {self.step}, {self.metric} {self.value:.3g}{unit}{lost}"

    def _deciding(self, metrics: Mapping[str, Any]) -> str:
        """The metric that decides most, "" for none."""
        known = [name for name in metrics if self._rank(name) < self._rank("")]
        return min(known, key=self._rank, default="")

    def _rank(self, metric: str) -> int:
        """Rank of a metric in the decision; 0 is the strongest."""
        role = re.escape(self.role)
        deciding = (
            rf"worth/{role}",
            rf"knn\d+/{role}",
            r"knn\d+/student",
            RETRIEVAL,
            "proxy/rankme",
        )
        found = (i for i, name in enumerate(deciding) if re.fullmatch(name, metric))
        return next(found, len(deciding))
