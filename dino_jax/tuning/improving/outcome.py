"""The end of an improvement: a better model is handed out, or one sentence says why not."""

from typing import Any, NamedTuple

import jax
from etils import epath

from dino_jax.evaluation.paired import Gain
from dino_jax.run.best import Best
from dino_jax.tuning.improving.compose import GAIN, START
from dino_jax.tuning.improving.record import RUN, Record
from dino_jax.tuning.improving.start import Start
from dino_jax.tuning.model_folder import Told, write_model
from dino_jax.weights.source import take_part
from dino_jax.weights.weights_file import BACKBONE
from dino_jax.workdir import checkpointing
from dino_jax.workdir.json_lines import read_history
from dino_jax.workdir.layout import CHECKPOINTS, METRICS_JSONL

TEACHER = "teacher"
ASKED = {
    "labels": "k-NN accuracy on held-out photos",
    "pairs": "Recall@1 on held-out products",
    "views": "held-out photos of which two views find each other (a proxy, there are no labels)",
}


class Look(NamedTuple):
    """One evaluation of a run.

    Attributes:
      step: updates before it.
      before: share that the start found.
      after: share that the teacher found.
      gain: the difference with its interval.
      recognised: upper end of the gain in views of photos that find each other.
    """

    step: int
    before: float
    after: float
    gain: Gain
    recognised: float


class Judged(NamedTuple):
    """All evaluations of a run.

    Attributes:
      looks: in their order, without that of step 0.
      best: the one whose checkpoint is kept; None without any.
    """

    looks: list[Look]
    best: Look | None

    @property
    def is_better(self) -> bool:
        """Whether the best one is better by more than its uncertainty, and destroys nothing."""
        best = self.best
        return best is not None and best.gain.is_proven and best.recognised >= 0


def judge(run: epath.Path) -> Judged:
    """Reads the evaluations of a run, and chooses as it has while it ran."""
    best, looks = Best(TEACHER), {}
    file = run / METRICS_JSONL
    for record in read_history(file)[0] if file.exists() else ():
        step = record["step"]
        if record.get(f"{GAIN}/{TEACHER}") is None or step == 0:
            continue
        best.add(step, record)
        ends = [record[f"{GAIN}{end}/{TEACHER}"] for end in ("", "_low", "_high")]
        before, after = (record[f"found/{role}"] for role in (START, TEACHER))
        recognised = record[f"recognised_high/{TEACHER}"]
        looks[step] = Look(step, before, after, Gain(*ends), recognised)
    return Judged(list(looks.values()), looks.get(best.step or 0))


def describe(judged: Judged, by: str) -> str:
    """What was found, in half a sentence."""
    best = judged.best
    if best is None:
        return "no evaluation was reached"
    gain = best.gain
    return (
        f"{ASKED[by]} {best.before:.4f} -> {best.after:.4f} at step {best.step}, gain "
        f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
    )


def reason_against(judged: Judged) -> str:
    """Why nothing is handed out, in half a sentence."""
    best = judged.best
    if best is None:
        return "there was no time for an evaluation"
    if best.recognised < 0:
        return (
            "every evaluation was of a model that recognises photos less than before (of two views "
            f"of a photo, the gain is at most {best.recognised:+.4f})"
        )
    if best.gain.mean <= 0:
        return "no evaluation was better than the model itself"
    return "that is not more than its uncertainty"


def conclude(folder: epath.Path, record: Record, judged: Judged, lost: str = "") -> dict[str, Any]:
    """The outcome for improve.json.

    Args:
      folder: of the improvement.
      record: of it.
      judged: its evaluations.
      lost: why the run gave up, if it did.
    """
    better = judged.is_better and not lost
    found = describe(judged, record.parts.by)
    if better:
        line = f"better: {found}. {folder} is handed out, a model as from dino-jax import"
    else:
        why = f"training gave up ({lost})" if lost else reason_against(judged)
        line = f"not better: {found}: {why}. The model stays as it is; nothing is handed out"
    return {
        "handed_out": better,
        "line": line,
        "found": found,
        "by": record.parts.by,
        "best": _plain(judged.best) if judged.best else None,
        "looks": [_plain(look) for look in judged.looks],
    }


def _plain(look: Look) -> dict[str, Any]:
    return {**look._asdict(), "gain": look.gain._asdict()}


def hand_out(folder: epath.Path, start: Start, record: Record, outcome: dict[str, Any]) -> None:
    """Writes the backbone of the best teacher as a model of its own, with its origin.

    All processes take part in writing its checkpoint.
    """
    left = folder / CHECKPOINTS
    if left.exists() and jax.process_index() == 0:  # by a start that was killed here
        left.rmtree()
    variables, _ = checkpointing.read_network(folder / RUN, outcome["best"]["step"])
    options = {name: value for name, value in record.options.items() if value not in (None, "")}
    facts = {"improved": {"options": options, "photos": record.parts._asdict(), **outcome}}
    told = Told("improved", "dino-jax improve", [outcome["found"]], facts)
    backbone = take_part(variables, BACKBONE)
    write_model(folder, backbone, start.path, start.step, told, start.image_size)


def remove_checkpoints(folder: epath.Path) -> None:
    """Removes the states of the run: what is worth keeping has been handed out."""
    place = folder / RUN / CHECKPOINTS
    if place.exists():
        place.rmtree()
