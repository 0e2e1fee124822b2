"""The course of a tuning: steps, evaluations, and which of them is handed out."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from dino_jax.evaluation.paired import Gain, compare
from dino_jax.tuning.candidate import Candidate
from dino_jax.tuning.guard import Queries
from dino_jax.tuning.sampler import Sampler

PATIENCE = 3  # evaluations in a row without a better one, after which it stops


class Evaluation(NamedTuple):
    """One look at held-out SKUs.

    Attributes:
      step: updates so far.
      recall: Recall@1.
      gain: over the frozen features.
      over_chance: over a photograph drawn at random.
      seconds: since the start, steps and evaluations.
    """

    step: int
    recall: float
    gain: Gain
    over_chance: Gain
    seconds: float


class Result(NamedTuple):
    """What a tuning found.

    Attributes:
      frozen: Recall@1 of the frozen features.
      evaluations: all of them, in order.
      best: the one with the largest gain, the first of equal ones.
      snapshot: of the candidate at that step.
    """

    frozen: float
    evaluations: list[Evaluation]
    best: Evaluation
    snapshot: Any

    @property
    def is_better(self) -> bool:
        """Whether frozen features, and chance, are beaten by more than the uncertainty of that."""
        return self.best.gain.is_proven and self.best.over_chance.is_proven


def steps_of_evaluations(steps: int, evaluations: int) -> list[int]:
    """Evenly spaced steps, the last one among them."""
    return sorted({-(-steps * (i + 1) // evaluations) for i in range(min(steps, evaluations))})


def tune(
    candidate: Candidate,
    sampler: Sampler,
    queries: Queries,
    frozen: np.ndarray,
    steps: int,
    evaluations: int,
    say: Callable[[str], None],
) -> Result:
    """Takes steps and evaluates; stops early if `PATIENCE` evaluations in a row are no better.

    Args:
      candidate: what learns.
      sampler: its batches.
      queries: what is measured.
      frozen: [G, D] vectors of the gallery by the frozen features.
      steps: updates.
      evaluations: how often it is measured.
      say: prints a line.
    """
    before, begin = queries.hits(frozen), time.monotonic()
    asked = queries.skus[queries.asked]
    say(f"frozen      Recall@1 {before.mean():.4f} of {len(before):,} held-out photos")
    wanted = steps_of_evaluations(steps, evaluations)
    found: list[Evaluation] = []
    best, snapshot, metrics = None, None, {}
    for step in range(steps):
        metrics = candidate.step(step, *sampler.draw(step))
        if step + 1 not in wanted:
            continue
        hits = queries.hits(candidate.vectors(queries.gallery))
        gain = compare(before, hits, asked, len(wanted))
        over = compare(queries.chance(), hits, asked, len(wanted))
        now = Evaluation(step + 1, float(hits.mean()), gain, over, time.monotonic() - begin)
        found.append(now)
        if best is None or gain.mean > best.gain.mean:
            best, snapshot = now, candidate.snapshot()
        say(describe(now, metrics))
        if len(found) - 1 - found.index(best) >= PATIENCE:
            say(f"stopped     the last {PATIENCE} evaluations were no better than step {best.step}")
            break
    if best is None:
        raise ValueError("a tuning needs at least one step")
    return Result(float(before.mean()), found, best, snapshot)


def describe(now: Evaluation, metrics: dict[str, float]) -> str:
    """One line about an evaluation."""
    gain = now.gain
    return (
        f"step {now.step:<6} Recall@1 {now.recall:.4f}, gain {gain.mean:+.4f} [{gain.low:+.4f}, "
        f"{gain.high:+.4f}]; loss {metrics['loss']:.4f}; {now.seconds:.1f} s"
    )
