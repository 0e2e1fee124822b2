"""How many steps fit into some hours: a short trial of the same run measures how fast they are."""

from etils import epath

from dino_jax.workdir.json_lines import read_history
from dino_jax.workdir.layout import METRICS_JSONL

TRIAL_STEPS, TRIAL_LINE = 12, 4  # of a trial, and between two of its measurements
SHARE = 0.85  # of the hours that is planned: the rest is for the start, checkpoints and hand-out
FORWARD = 10  # photos that are only looked at in the time of one that is learned from
MOST_PASSES = 100  # over the photos
FEWEST_STEPS = 20
SECONDS_PER_HOUR = 3600


def read_speed(trial: epath.Path) -> float:
    """Photos per second of a trial, from its last measurement.

    Raises:
      ValueError: if it has none.
    """
    records, _ = read_history(trial / METRICS_JSONL)
    speeds = [record["images_per_second"] for record in records if record.get("images_per_second")]
    if not speeds:
        raise ValueError("the trial has not measured how fast steps are; pass --steps=N instead")
    return speeds[-1]


def steps_in(
    hours: float, spent: float, speed: float, batch: int, photos: int, looked_at: int
) -> int:
    """Updates that fit into some hours.

    Args:
      hours: in all.
      spent: seconds that are gone.
      speed: photos per second that are learned from.
      batch: photos per update.
      photos: number of photos; at most `MOST_PASSES` passes over them are made.
      looked_at: photos that all evaluations together look at.

    Raises:
      ValueError: if there is hardly time for any.
    """
    seconds = SHARE * hours * SECONDS_PER_HOUR - spent - looked_at / (FORWARD * speed)
    fitting = int(seconds * speed / batch)
    if fitting < FEWEST_STEPS:
        raise ValueError(
            f"--hours={hours:g} are too few here: {max(fitting, 0)} steps of {batch} photos would "
            f"fit, at least {FEWEST_STEPS} are needed ({speed:.3g} photos per second were "
            "measured); give it more time, or a smaller --batch-size"
        )
    return min(fitting, max(MOST_PASSES * photos // batch, FEWEST_STEPS))
