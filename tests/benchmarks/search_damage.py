"""Damages indexes on purpose and compares what is left; run by hand, for minutes.

  python -m tests.benchmarks.search_damage kill [--times=50] [--seed=0]
  python -m tests.benchmarks.search_damage flip [--times=1000] [--seed=0]
  python -m tests.benchmarks.search_damage change [--times=10000] [--seed=0]

kill    the real commands build, update, remove and compact, each in a process of its own, end by
        SIGKILL at a random one of the changes that they make to the folder, and up to 20 ms later;
        the index must open and be that of before or after a commit, and the command, run again,
        must end with the answers of one that was never killed
flip    one byte of one file at a time; the error must name the file
change  random adds and removes, then the same queries to a fresh build
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from dino_jax.search.index import Index, open_index
from dino_jax.search.manifest import MANIFEST
from dino_jax.search.segment import Row
from dino_jax.search.writer import writing
from tests.saved_model import save_tiny_vit
from tests.search.photos import save_photo
from tests.search.small_index import make_index, manifest, vector_of
from tests.search.test_index import flip_bytes, rich_index

BLOCK = 8  # photographs of one commit, so that a command makes several
DELAY = 0.02  # at most, seconds between a change that is seen and the kill
COMMAND = (
    f"import sys, dino_jax.search.update as update; update.BLOCK = {BLOCK}\n"
    "from dino_jax.__main__ import main; sys.exit(main(['search', *sys.argv[1:]]))"
)
State = dict[str, bytes]  # vector by name of the photograph


def state_of(index: Index) -> State:
    names = [row.name for _, row in index.rows()]
    assert len(set(names)) == len(names), "a photograph is in the index twice"
    return {row.name: index.vector(number).tobytes() for number, row in index.rows()}


def answers_of(index: Index, queries: np.ndarray) -> list[list[tuple[str, float]]]:
    found = [index.search(query, 10) for query in queries]
    return [
        [
            (index.row(row).name, score)
            for row, score in zip(one.rows.tolist(), one.scores.tolist(), strict=True)
        ]
        for one in found
    ]


def names_in(folder: Path) -> frozenset[tuple[str, int]]:
    """What a folder holds, as names and sizes."""
    found = set()
    for place, folders, files in os.walk(folder):
        found.update((f"{place}/{name}", 0) for name in folders)
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                found.add((f"{place}/{name}", (Path(place) / name).stat().st_size))
    return frozenset(found)


def start(*arguments: object) -> subprocess.Popen:
    given = [sys.executable, "-c", COMMAND, *map(str, arguments)]
    return subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(*arguments: object) -> None:
    process = start(*arguments)
    said, _ = process.communicate()
    assert process.returncode == 0, said.decode()


def watch(folder: Path, process: subprocess.Popen, most: int | None) -> int:
    """Waits for a number of changes of a folder, or the end; returns how many were seen."""
    seen, changes = names_in(folder), 0
    while process.poll() is None and (most is None or changes < most):
        now = names_in(folder)
        if now != seen:
            seen, changes = now, changes + 1
        time.sleep(0.0003)
    return changes


class Trial:
    """One command on one index, killed again and again until it has ended by itself."""

    def __init__(self, name: str, begin: Path | None, place: Path, arguments: list[object]):
        """Takes `begin` as the index before the command, None for no index."""
        self.name, self.begin, self.place, self.arguments = name, begin, place, arguments
        self.before = state_of(open_index(begin)) if begin else {}
        self.reset()
        process = start(name, place, *arguments)
        self.changes = watch(place, process, None)
        said, _ = process.communicate()
        assert process.returncode == 0, said.decode()
        self.after = state_of(open_index(place))
        rng = np.random.default_rng(0)
        dim = open_index(place).manifest.origin.dim
        self.queries = rng.normal(size=(20, dim))
        self.answers = answers_of(open_index(place), self.queries)
        self.reset()

    def reset(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        if self.begin:
            shutil.copytree(self.begin, self.place)

    def kill(self, rng: np.random.Generator) -> str:
        """One kill; returns what it hit."""
        process = start(self.name, self.place, *self.arguments)
        watch(self.place, process, int(rng.integers(1, self.changes + 1)))
        time.sleep(float(rng.uniform(0, DELAY)))
        process.kill()
        process.communicate()
        return self.judge()

    def is_over(self) -> bool:
        """Whether its last commit is made; that of compact is a segment like others."""
        index = open_index(self.place)
        if self.name == "compact":
            return index.manifest.rows == len(index)
        return state_of(index) == self.after

    def judge(self) -> str:
        if not (self.place / MANIFEST).exists():
            assert not self.begin, "the index is gone"
            return "before the first commit"
        index = open_index(self.place)
        state = state_of(index)
        for name, vector in state.items():
            assert vector in (self.before.get(name), self.after.get(name)), f"{name} is neither"
        if self.name == "remove":
            assert state in (self.before, self.after), "some rows are removed, others not"
        if self.name in ("compact", "remove") and state == self.after:
            assert answers_of(index, self.queries) == self.answers
        named = {file.name.split("/")[0] for file in index.manifest.files()} | {MANIFEST}
        here = {path.name for path in self.place.iterdir()} - {"lock.json"}
        waste = len(here - named)
        if self.is_over() and not waste:
            return "after the last commit"
        return "with files of no commit" if waste else "between two commits"

    def end(self) -> None:
        """Runs it to its end: the answers are those of a command that was never killed."""
        if self.name != "remove" or state_of(open_index(self.place)) == self.before:
            finish(self.name, self.place, *self.arguments)  # names can be removed once only
        index = open_index(self.place)
        assert state_of(index) == self.after
        assert answers_of(index, self.queries) == self.answers


def kill(times: int, seed: int, place: Path) -> None:
    rng, photos = np.random.default_rng(seed), place / "photos"
    for number in range(40):
        save_photo(photos / f"p{number // 4:02d}-{number % 4}.png", number // 4, number % 4, 32)
    workdir = place / "run"
    workdir.mkdir()
    save_tiny_vit(workdir, width=12, depth=1)
    options: list[object] = ["--batch-size=8"]
    parts = dict(
        zip(
            ("build", "update", "remove", "compact"),
            np.diff(np.linspace(0, times, 5).astype(int)),
            strict=True,
        )
    )
    hit: dict[str, Counter] = {name: Counter() for name in parts}

    def run(trial: Trial) -> None:
        for _ in range(parts[trial.name]):
            what = trial.kill(rng)
            hit[trial.name][what] += 1
            if (trial.place / MANIFEST).exists() and trial.is_over():
                trial.end()
                trial.reset()
        trial.end()
        print(
            trial.name, trial.changes, "changes of the folder;", dict(hit[trial.name]), flush=True
        )

    build = Trial("build", None, place / "built", [workdir, photos, *options])
    run(build)
    for number in range(0, 40, 5):  # a fifth vanishes
        (photos / f"p{number // 4:02d}-{number % 4}.png").unlink()
    (photos / "p00-1.png").rename(photos / "renamed.png")
    for number in range(30):
        save_photo(photos / f"q{number:02d}.png", 20 + number, 0, 32)
    save_photo(photos / "p09-1.png", 60, 0, 32)
    run(Trial("update", place / "built", place / "updated", [photos, *options]))
    names = [f"q{number:02d}.png" for number in range(20)]
    run(Trial("remove", place / "updated", place / "removed", names))
    run(Trial("compact", place / "removed", place / "compacted", ["--always"]))
    total = sum((one for one in hit.values()), Counter())
    print(sum(total.values()), "kills:", dict(total))


def flip(times: int, seed: int, place: Path) -> None:
    folder = rich_index(place / "i")
    flip_bytes(folder, times, seed)
    files = sum(path.is_file() for path in folder.rglob("*"))
    print(f"{times} flipped bytes in {files} files: {times} errors that name the file")


def change(times: int, seed: int, place: Path) -> None:
    rng, live, done, number = np.random.default_rng(seed), [], 0, 0
    while done < times:
        with writing(place / "i", manifest()) as writer:
            for _ in range(10):
                new = [f"{number + i}" for i in range(int(rng.integers(1, 60)))]
                number += len(new)
                gone = {name for name in live if rng.random() < 0.15}
                where = {row.name: at for at, row in Index(writer.folder, writer.manifest).rows()}
                writer.remove([where[name] for name in gone])
                writer.add([(np.stack([vector_of(one) for one in new]), [Row(one) for one in new])])
                writer.commit()
                if rng.random() < 0.1:
                    writer.compact()
                live = [name for name in live if name not in gone] + new
                done += len(new) + len(gone)
    index, fresh = open_index(place / "i"), make_index(place / "fresh", live)
    queries = rng.normal(size=(500, index.manifest.origin.dim))
    assert answers_of(index, queries) == answers_of(fresh, queries)
    print(
        f"{done:,} adds and removes in {index.manifest.generation} commits, {len(index):,} of "
        f"{index.manifest.rows:,} rows in {len(index.manifest.segments)} segments live: 500 "
        "queries have the names and scores of a fresh build"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = {"kill": (kill, 50), "flip": (flip, 1000), "change": (change, 10_000)}
    parser.add_argument("what", choices=what)
    parser.add_argument("--times", type=int)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    work, times = what[given.what]
    with tempfile.TemporaryDirectory() as place:
        work(given.times or times, given.seed, Path(place))


if __name__ == "__main__":
    main()
