"""Rounds of bad things, and the comparison with the run that nothing disturbed."""

import dataclasses
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.chaos.faults import KINDS, SAVE_EVERY, SAVED, STEPS, Chaos, write_images
from tests.chaos.start import Place, Round, resumed_step
from tests.run_train import Finished, read_metrics, read_state

ROUNDS_PER_RUN = 5
LOSS_TOLERANCE = 1e-3  # relative
TEACHER_TOLERANCE = 1e-3  # absolute; parameters are of the order of 0.02 to 1


def places(rng: random.Random) -> Iterator[Place]:
    """2 x 2, 1 x 4, 1 x 1, 2 x 1 and so on, each with some fsdp degree."""
    while True:
        for processes, devices in ((2, 2), (1, 4), (1, 1), (2, 1)):
            total = processes * devices
            yield Place(processes, devices, rng.choice([n for n in (1, 2, 4) if total % n == 0]))


def check_finished(finished: list[Finished]) -> None:
    """All processes went well, and the run is done."""
    done = f"done: step {STEPS} of {STEPS}" in finished[0].out
    if not done or any(each.code for each in finished):
        raise AssertionError(f"the run was not finished: {finished}")


def note_losses(rounds: list[Round], resumed_at: int) -> None:
    """Completes the last round with a step, now that it is known where the next start resumed."""
    for played in reversed(rounds):
        if played.last_step is not None and played.lost_steps is None:
            played.lost_steps = max(played.last_step - resumed_at, 0)
            # The newest checkpoint may be torn or damaged, and steps after it are not saved yet.
            damaged = played.kind in ("truncate the newest", "flip a bit")
            limit = 0 if played.kind in SAVED else (3 if damaged else 2) * SAVE_EVERY
            if played.lost_steps > limit:
                raise AssertionError(f"lost more than {limit} steps: {played}")
            return


class Deviation(NamedTuple):
    """Of a disturbed run from the undisturbed one."""

    loss: float  # relative, largest over all steps
    teacher: float  # absolute, largest over all parameters


def compare(workdir: Path, whole: Path) -> Deviation:
    """How far two finished runs are from each other; both have every step once."""
    ours, theirs = read_metrics(workdir), read_metrics(whole)
    steps = list(range(1, STEPS + 1))
    for name, records in (("disturbed", ours), ("undisturbed", theirs)):
        found = [record["step"] for record in records]
        if found != steps:
            raise AssertionError(f"steps of the {name} run: {found}")
    losses = [(a["loss"], b["loss"]) for a, b in zip(ours, theirs, strict=True)]
    mine, other = read_state(workdir), read_state(whole)
    names = [name for name in other if name.startswith("teacher/")]
    return Deviation(
        max(abs(a - b) / abs(b) for a, b in losses),
        max(float(np.max(np.abs(mine[name] - other[name]))) for name in names),
    )


def play(
    rounds: int,
    seed: int,
    folder: Path,
    say: Callable[[str], object],
    kinds_to_play: Sequence[str] = (),
) -> tuple[list[Round], list[Deviation]]:
    """Plays `rounds` rounds in runs of a few each; raises AssertionError if anything is wrong."""
    kinds_to_play = list(kinds_to_play or KINDS)
    rng, cache, images = random.Random(seed), folder / "compiled", folder / "images"
    write_images(images)
    whole = Chaos(folder / "whole", images, cache, rng)
    with whole.start(Place(1, 1, 1)) as started:
        check_finished(started.finish())
    all_rounds: list[Round] = []
    deviations: list[Deviation] = []
    where = places(rng)
    while len(all_rounds) < rounds:
        chaos = Chaos(folder / f"run{len(deviations)}", images, cache, rng)
        played: list[Round] = []
        kinds = rng.sample(kinds_to_play, min(ROUNDS_PER_RUN, len(kinds_to_play)))[
            : rounds - len(all_rounds)
        ]
        for kind in kinds:
            played.append(chaos.play(kind, next(where)))
            if played[-1].resumed_at is not None:
                note_losses(played[:-1], played[-1].resumed_at)
            say(json.dumps(dataclasses.asdict(played[-1])))
        with chaos.start(next(where)) as started:
            finished = started.finish()
        check_finished(finished)
        note_losses(played, resumed_step(finished[0].out) or 0)
        deviations.append(compare(chaos.workdir, whole.workdir))
        all_rounds += played
        say(f"finished on {started.place}, lost {[r.lost_steps for r in played]}: {deviations[-1]}")
        if deviations[-1].loss > LOSS_TOLERANCE or deviations[-1].teacher > TEACHER_TOLERANCE:
            raise AssertionError(f"another run than the undisturbed one: {deviations[-1]}")
    return all_rounds, deviations
