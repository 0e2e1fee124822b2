"""A long history is read evenly and completely where it matters."""

import json
import random
from typing import Any

import numpy as np
from etils import epath

from dino_jax.report.history import read_run
from dino_jax.report.thinning import read_thinned
from dino_jax.workdir.json_lines import read_history


def write(tmp_path, lines) -> epath.Path:
    path = epath.Path(tmp_path) / "metrics.jsonl"
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    return path


def log(step: int, **others: float) -> dict[str, float]:
    return {"step": step, "loss": 1 / (1 + step), **others}


def test_a_short_history_is_read_as_a_whole(tmp_path):
    draws = random.Random(0)
    steps = [draws.randrange(40) for _ in range(300)]  # a run that was resumed again and again
    lines: list[Any] = [log(step, place=n) for n, step in enumerate(steps)]
    lines[7:7] = ["", '{"step": 3, "lo', "[1]", '{"loss": 1, "step": 2}']
    path = write(tmp_path, [*lines, '{"step": 50, "loss"'])
    records, torn = read_history(path)
    assert read_thinned(path) == (records, torn, len(records)) and len(torn) == 3


def test_of_many_lines_some_are_chosen_evenly_and_all_evaluations(tmp_path):
    lines = [
        log(step, **({"knn10/teacher": step} if step % 100 == 0 else {})) for step in range(2000)
    ]
    path = write(tmp_path, lines)
    records, torn, count = read_thinned(path, most=50)
    assert count == 2000 and torn == []
    steps = [record["step"] for record in records]
    assert steps == sorted(set(steps)) and (steps[0], steps[-1]) == (0, 1999)
    assert [s for s in steps if s % 100 == 0] == list(range(0, 2000, 100))
    others = [s for s in steps if s % 100]
    assert len(others) == 50 and max(np.diff(others)) <= 42


def test_a_report_says_how_many_lines_it_shows(tmp_path, monkeypatch):
    write(tmp_path, [log(step) for step in range(5000)])
    run = read_run(epath.Path(tmp_path), "x")
    assert "metrics.jsonl: drawn from 4,000 of 5,000 lines, evenly chosen" in run.notes
    assert run.last_step == 4999 and len(run.curves["loss"].steps) == 4000
