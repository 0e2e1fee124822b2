"""Numbers of a tuning as JSON."""

from typing import Any

from dino_jax.tuning.course import Result

TUNING_JSON = "tuning.json"


def describe_result(result: Result) -> dict[str, Any]:
    """Recall@1 before, at every evaluation, and of the best one, with intervals."""
    evaluations = [
        {
            "step": one.step,
            "recall_at_1": one.recall,
            "gain": one.gain._asdict(),
            "over_chance": one.over_chance._asdict(),
            "seconds": round(one.seconds, 3),
        }
        for one in result.evaluations
    ]
    return {
        "frozen_recall_at_1": result.frozen,
        "evaluations": evaluations,
        "best": evaluations[result.evaluations.index(result.best)],
    }
