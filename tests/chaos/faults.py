"""The bad things that happen to a training: each starts it, lets it train and does one of them."""

import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.chaos.start import Ended, Place, Round, Started, last_step, resumed_step
from tests.flipped_bits import flip
from tests.run_train import QUICKSTART, SMALL, Finished, checkpoint_steps, overrides

STEPS = 96  # of a whole run
ADVANCE = (3, 10)  # steps that a round trains, at least and at most
SAVE_EVERY = 4
IMAGES = 48
CONFIG = SMALL | {
    "data.kind": "folder",
    "epochs": STEPS / 2,
    "runtime.save_every_steps": SAVE_EVERY,
    "runtime.keep_checkpoints": 3,
    "evaluations.knn.every_epochs": 0.0,
    "evaluations.proxies.every_epochs": 0.0,
}


class Chaos:
    """The rounds of one run in `workdir`."""

    def __init__(self, workdir: Path, images: Path, cache: Path, rng: random.Random):
        config = CONFIG | {"data.path": images, "runtime.compilation_cache": cache}
        self.workdir, self._images, self._rng = workdir, images, rng
        self._arguments = [QUICKSTART, f"--workdir={workdir}", *overrides(config)]

    def start(
        self, place: Place, options: Sequence[str] = (), last_alone: Sequence[str] = ()
    ) -> Started:
        return Started([*self._arguments, *options], place, last_alone)

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

    def change_data(self, started: Started, played: Round) -> Ended:
        """Images are lost, added or renamed between two starts: the second one says which."""
        ended = self.sigterm(started, played)
        victim = self._rng.choice(sorted(self._images.iterdir()))
        away = self._images.with_name(victim.name)
        change = self._rng.choice(("gone", "new", "renamed"))
        if change == "new":
            changed = self._images / f"copy_of_{victim.name}"
            shutil.copy(victim, changed)
        elif change == "renamed":
            changed = victim.rename(self._images / f"renamed_{victim.name}")
        else:
            changed = victim.rename(away)
        self._require_refused(started.place, played, changed.name)
        if change == "new":
            changed.unlink()
        else:
            changed.rename(victim)
        played.note = f"{changed.name} {change}"
        return ended

    def differ(self, started: Started, played: Round) -> Ended:
        """A start whose last process has another option than the others ends on all of them."""
        ended = self.sigterm(started, played)
        option, value = self._rng.choice(DIFFERENT)
        two = Place(2, self._rng.choice((1, 2)), 1)
        self._require_refused(two, played, option, [f"--{option}={value}"])
        played.note = f"{option} of the last of 2 processes"
        return ended

    def _require_refused(
        self, place: Place, played: Round, word: str, last_alone: Sequence[str] = ()
    ) -> None:
        """A start ends with 2 on all processes, names a word, and leaves the workdir as it was."""
        before = _listed(self.workdir)
        with self.start(place, last_alone=last_alone) as second:
            refused = second.finish()
        for each in refused:
            require(each.code == 2 and "Traceback" not in each.err, played, each)
        require(any(word in each.err for each in refused), played, refused[0])
        require(_listed(self.workdir) == before, played, refused[0])

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
    "data changed": Chaos.change_data,
    "processes differ": Chaos.differ,
}
OPTIONS = {"kill -9 a worker": ["--config.runtime.workers=2"]}  # more than others have
SAVED = (  # kinds that lose no step
    "SIGTERM",
    "kill -9 a worker",
    "start twice",
    "data changed",
    "processes differ",
)
DIFFERENT = (  # what the last of some processes has otherwise
    ("config.seed", 7),
    ("config.optimizer.lr", 0.002),
    ("config.batch_size", 12),
    ("config.runtime.log_every_steps", 3),
    ("config.augment.crops.local.count", 3),
)


def write_images(folder: Path) -> None:
    """Images of noise, the same ones each time."""
    folder.mkdir()
    for index in range(IMAGES):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")


def _listed(workdir: Path) -> list[tuple[str, int]]:
    """The files of a workdir and their sizes."""
    files = (path for path in sorted(workdir.rglob("*")) if path.is_file())
    return [(str(path.relative_to(workdir)), path.stat().st_size) for path in files]


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
