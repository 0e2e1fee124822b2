"""Files of one JSON object per line: one history over restarts."""

import json

import pytest
from etils import epath

from dino_jax.workdir.json_lines import JsonLines, read_json_lines


@pytest.fixture
def path(tmp_path):
    path = epath.Path(tmp_path) / "x.jsonl"
    lines = JsonLines(path, start_step=0)
    for step in (2, 4, 6):
        lines.append({"step": step, "state": "healthy"})
    return path


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_resume_drops_later_and_torn_lines_and_goes_on(path):
    with open(path, "a") as file:  # noqa: PTH123
        file.write('{"step": 3, "sta')
    JsonLines(path, start_step=4).append({"step": 5})
    assert steps(path) == [2, 4, 5]


def test_a_new_run_drops_everything(path):
    JsonLines(path, start_step=0)
    assert path.read_text() == ""


def test_reading_stops_at_a_step_and_changes_nothing(path):
    assert [record["step"] for record in read_json_lines(path, 5)] == [2, 4]
    assert read_json_lines(path, 0) == []
    assert read_json_lines(path.parent / "missing.jsonl", 5) == []
    assert steps(path) == [2, 4, 6]


def test_numbers_that_are_not_finite_are_refused(path):
    with pytest.raises(ValueError, match="JSON"):
        JsonLines(path, 0).append({"step": 1, "x": float("nan")})
