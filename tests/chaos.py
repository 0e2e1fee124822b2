"""Trainings that are killed, torn, shrunk and grown at random: python -m tests.chaos --rounds=20.

A round starts the real command on some number of processes and devices, lets it train for some
steps and then does something bad to it. After every few rounds the run is left alone until its end
and must be the run that nothing disturbed: every step once, the same losses, the same teacher.
"""

import argparse
import dataclasses
import json
import os
import random
import re
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.flipped_bits import flip
from tests.run_train import (
    QUICKSTART,
    SMALL,
    Finished,
    Job,
    checkpoint_steps,
    overrides,
    read_metrics,
    read_state,
)

STEPS = 96  # of a whole run
ADVANCE = (3, 10)  # steps that a round trains, at least and at most
SAVE_EVERY = 4
ROUNDS_PER_RUN = 5
LOSS_TOLERANCE = 1e-3  # relative
TEACHER_TOLERANCE = 1e-3  # absolute; parameters are of the order of 0.02 to 1
CONFIG = SMALL | {
    "epochs": STEPS / 2,
    "runtime.save_every_steps": SAVE_EVERY,
    "runtime.keep_checkpoints": 3,
    "evaluations.knn.every_epochs": 0.0,
    "evaluations.proxies.every_epochs": 0.0,
}


class Place(NamedTuple):
    """Where a start runs."""

    processes: int
    devices: int  # of each process
    fsdp: int


class Ended(NamedTuple):
    """How the processes of a start ended, and how long that took."""

    finished: list[Finished]
    seconds: float


@dataclasses.dataclass
class Round:
    """What happened in a round."""

    kind: str
    place: Place
    resumed_at: int | None = None  # step; None: it ended before
    last_step: int | None = None
    codes: list[int] = dataclasses.field(default_factory=list)
    seconds_to_end: float = 0.0
    note: str = ""
    lost_steps: int | None = None  # known when the next start resumes


class Started(Job):
    """The processes of one start; a context manager."""

    def __init__(self, arguments: list[str], place: Place):
        fsdp = f"--config.runtime.fsdp={place.fsdp}"
        super().__init__(*arguments, fsdp, processes=place.processes, devices=place.devices)
        self.place = place

    def wait_for_step(self, step: int) -> None:
        self.processes[0].wait_for(f"step {step:2d}/")

    def send(self, number: signal.Signals, victims: list[int]) -> Ended:
        """Sends a signal to some of the processes and waits for the end of all."""
        begun = time.monotonic()
        for victim in victims:
            self.processes[victim].send(number)
        finished = self.finish()
        return Ended(finished, time.monotonic() - begun)


def places(rng: random.Random) -> Iterator[Place]:
    """2 x 2, 1 x 4, 1 x 1, 2 x 1 and so on, each with some fsdp degree."""
    while True:
        for processes, devices in ((2, 2), (1, 4), (1, 1), (2, 1)):
            total = processes * devices
            yield Place(processes, devices, rng.choice([n for n in (1, 2, 4) if total % n == 0]))


def resumed_step(out: str) -> int | None:
    """The step that a start began at, from what it printed."""
    found = re.search(r"^workdir .*, (?:new run|resumed at step (\d+))$", out, re.MULTILINE)
    return int(found[1] or 0) if found else None


def last_step(out: str) -> int | None:
    """The newest step that a start printed."""
    steps = re.findall(r"^step +(\d+)/", out, re.MULTILINE)
    return int(steps[-1]) if steps else None


class Chaos:
    """The rounds of one run in `workdir`."""

    def __init__(self, workdir: Path, cache: Path, rng: random.Random):
        config = CONFIG | {"runtime.compilation_cache": cache}
        self.workdir, self._rng = workdir, rng
        self._arguments = [QUICKSTART, f"--workdir={workdir}", *overrides(config)]

    def start(self, place: Place, options: Sequence[str] = ()) -> Started:
        return Started([*self._arguments, *options], place)

    def newest(self) -> int:
        """Label of the newest checkpoint, 0 without any."""
        return max(self._saved(), default=0)

    def play(self, kind: str, place: Place) -> Round:
        """Plays one round."""
        played = Round(kind, place)
        with self.start(place, OPTIONS.get(kind, ())) as started:
            ended = KINDS[kind](self, started, played)
        out = ended.finished[0].out
        played.resumed_at, played.last_step = resumed_step(out), last_step(out)
        played.codes = [finished.code for finished in ended.finished]
        played.seconds_to_end = round(ended.seconds, 1)
        return played

    def kill_one(self, started: Started, played: Round) -> Ended:
        """kill -9 of one process at a random step; the others must end by themselves with 75."""
        self._advance(started)
        return self._kill_one(started, played)

    def _kill_one(self, started: Started, played: Round) -> Ended:
        victim = self._rng.randrange(len(started.processes))
        ended = started.send(signal.SIGKILL, [victim])
        codes = [finished.code for finished in ended.finished]
        # 134 is jax's own abort, if it is faster than ours where process 0 was the victim.
        expected = [(-9,) if i == victim else (75, -6) for i in range(len(codes))]
        require(all(c in e for c, e in zip(codes, expected, strict=True)), played, ended)
        played.note = f"process {victim}"
        return ended

    def kill_while_saving(self, started: Started, played: Round) -> Ended:
        """kill -9 of all while a checkpoint is written."""
        self._advance(started)
        folder = self.workdir / "checkpoints"
        wait_until(lambda: bool(list(folder.glob("*tmp*"))))
        ended = started.send(signal.SIGKILL, list(range(len(started.processes))))
        torn = [path.name.split(".")[0] for path in folder.glob("*tmp*")]
        played.note = f"torn: {', '.join(torn)}" if torn else "it was complete already"
        return ended

    def sigterm(self, started: Started, played: Round) -> Ended:
        """SIGTERM to one or to all at a random step: all save the same step and end with 75."""
        self._advance(started)
        count = len(started.processes)
        victims = self._rng.choice([[self._rng.randrange(count)], list(range(count))])
        ended = started.send(signal.SIGTERM, victims)
        out = ended.finished[0].out
        require([f.code for f in ended.finished] == [75] * count, played, ended)
        require(f"SIGTERM: saved step {last_step(out)} of" in out, played, ended)
        require(self.newest() == last_step(out), played, ended)
        played.note = f"to process {', '.join(map(str, victims))}"
        return ended

    def sigterm_at_start(self, started: Started, played: Round) -> Ended:
        """SIGTERM to all at a random moment before or during the first steps.

        While Python still imports jax nobody listens: -15.
        """
        seconds = self._rng.uniform(1.0, 6.0 if started.place.processes == 1 else 18.0)
        time.sleep(seconds)
        ended = started.send(signal.SIGTERM, list(range(len(started.processes))))
        require(all(f.code in (75, -15) for f in ended.finished), played, ended)
        played.note = f"after {seconds:.1f} s"
        return ended

    def truncate(self, started: Started, played: Round) -> Ended:
        """kill -9, and some file of the newest checkpoint loses its end."""
        self._advance(started)
        wait_until(lambda: len(self._saved()) >= 2)
        ended = self._kill_one(started, played)
        checkpoint = self.workdir / "checkpoints" / str(self.newest())
        files = [p for p in sorted(checkpoint.rglob("*")) if p.is_file() and p.stat().st_size]
        file = self._rng.choice(files)
        size = self._rng.randrange(file.stat().st_size)
        played.note = f"{file.relative_to(checkpoint)} of {checkpoint.name}: {size} bytes left"
        with file.open("r+b") as opened:
            opened.truncate(size)
        return ended

    def flip_bit(self, started: Started, played: Round) -> Ended:
        """kill -9, and some bit of the newest checkpoint is another one."""
        self._advance(started)
        wait_until(lambda: len(self._saved()) >= 2)
        ended = self._kill_one(started, played)
        checkpoint = self.workdir / "checkpoints" / str(self.newest())
        files = [p for p in sorted(checkpoint.rglob("*")) if p.is_file() and p.stat().st_size]
        file = self._rng.choices(files, [path.stat().st_size for path in files])[0]
        bit = self._rng.randrange(8 * file.stat().st_size)
        flip(file, bit)
        played.note = f"{file.relative_to(checkpoint)} of {checkpoint.name}: bit {bit} flipped"
        return ended

    def fill_disk(self, started: Started, played: Round) -> Ended:
        """No file may grow beyond 64 KB any more: all say so in one line and end with 1."""
        self._advance(started)
        begun = time.monotonic()
        for process in started.processes:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        ended = Ended(started.finish(), time.monotonic() - begun)
        self._require_one_line(ended, played, "a file may not grow any more")
        return ended

    def move_workdir(self, started: Started, played: Round) -> Ended:
        """The workdir is not there any more, as if unmounted; it comes back for the next start."""
        self._advance(started)
        begun, away = time.monotonic(), self.workdir.with_name(f"{self.workdir.name}.away")
        self.workdir.rename(away)
        ended = Ended(started.finish(), time.monotonic() - begun)
        shutil.rmtree(self.workdir, ignore_errors=True)  # what Orbax has made again
        away.rename(self.workdir)
        self._require_one_line(ended, played, "has vanished")
        return ended

    def kill_worker(self, started: Started, played: Round) -> Ended:
        """kill -9 of an input worker: all save the same step and end with 75."""
        self._advance(started)
        begun = time.monotonic()
        os.kill(self._rng.choice(self._rng.choice(started.processes).workers()), signal.SIGKILL)
        ended = Ended(started.finish(), time.monotonic() - begun)
        out = ended.finished[0].out
        require(all(f.code == 75 for f in ended.finished), played, ended)
        require(f"a lost input worker: saved step {last_step(out)} of" in out, played, ended)
        require(any("killed by SIGKILL" in f.err for f in ended.finished), played, ended)
        return ended

    def start_twice(self, started: Started, played: Round) -> Ended:
        """A second start on the same workdir ends with 2 and names the first, which goes on."""
        self._advance(started)
        with self.start(Place(1, 1, 1)) as second:
            (refused,) = second.finish()
        require(refused.code == 2 and str(self.workdir) in refused.err, played, refused)
        require("Traceback" not in refused.err, played, refused)
        return self.sigterm(started, played)

    def _require_one_line(self, ended: Ended, played: Round, words: str) -> None:
        require(all(f.code == 1 for f in ended.finished), played, ended)
        said = [f.err for f in ended.finished if words in f.err]
        require(bool(said), played, ended)
        require(not any("Traceback" in f.err for f in ended.finished), played, ended)

    def _advance(self, started: Started) -> None:
        step = self.newest() + self._rng.randint(*ADVANCE)
        started.wait_for_step(min(step, STEPS - ADVANCE[0]))

    def _saved(self) -> list[int]:
        folder = self.workdir / "checkpoints"
        return checkpoint_steps(self.workdir) if folder.exists() else []


KINDS: dict[str, Callable[[Chaos, Started, Round], Ended]] = {
    "kill -9 one": Chaos.kill_one,
    "truncate the newest": Chaos.truncate,
    "SIGTERM": Chaos.sigterm,
    "kill -9 while saving": Chaos.kill_while_saving,
    "SIGTERM at the start": Chaos.sigterm_at_start,
    "flip a bit": Chaos.flip_bit,
    "no room": Chaos.fill_disk,
    "workdir gone": Chaos.move_workdir,
    "kill -9 a worker": Chaos.kill_worker,
    "start twice": Chaos.start_twice,
}
OPTIONS = {"kill -9 a worker": ["--config.runtime.workers=2"]}  # more than others have
SAVED = ("SIGTERM", "kill -9 a worker", "start twice")  # kinds that lose no step


def wait_until(holds: Callable[[], bool]) -> None:
    """Looks very often."""
    deadline = time.monotonic() + 60
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError("this has not happened within a minute")
        time.sleep(0.0005)


def require(holds: bool, played: Round, ended: Ended | Finished) -> None:
    """Raises with all that is known."""
    if not holds:
        raise AssertionError(f"{played}\n{ended}")


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
    rng, cache = random.Random(seed), folder / "compiled"
    whole = Chaos(folder / "whole", cache, rng)
    with whole.start(Place(1, 1, 1)) as started:
        check_finished(started.finish())
    all_rounds: list[Round] = []
    deviations: list[Deviation] = []
    where = places(rng)
    while len(all_rounds) < rounds:
        chaos = Chaos(folder / f"run{len(deviations)}", cache, rng)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rounds, deviations = play(
            options.rounds, options.seed, Path(folder), partial(print, flush=True)
        )
    for kind in KINDS:
        ours = [played for played in rounds if played.kind == kind]
        lost = [played.lost_steps for played in ours if played.lost_steps is not None]
        print(f"{kind:22} {len(ours)} rounds, steps lost {lost}")
    print(f"largest deviation: loss {max(d.loss for d in deviations):.1e} relative, ", end="")
    print(f"teacher {max(d.teacher for d in deviations):.1e} absolute")


if __name__ == "__main__":
    main()
