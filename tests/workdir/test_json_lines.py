"""Files of one JSON object per line: one history over restarts."""

import json

import pytest
from etils import epath

from dino_jax.workdir.json_lines import JsonLines, read_history, read_json_lines


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


def test_a_file_that_was_deleted_is_not_begun_again(path):
    lines = JsonLines(path, start_step=6)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        lines.append({"step": 8})
    assert not path.exists()


def test_numbers_that_are_not_finite_are_refused(path):
    with pytest.raises(ValueError, match="JSON"):
        JsonLines(path, 0).append({"step": 1, "x": float("nan")})


def test_lines_that_a_resumed_run_did_again_count_once_and_the_newer_ones(path):
    found = [1, 2, 3, 4, 5, 4, 5, 6, 2, 2, 3]
    lines = [json.dumps({"step": step, "at": place}) for place, step in enumerate(found)]
    path.write_text("\n".join(lines))
    records, unreadable = read_history(path)
    kept = [(record["step"], record["at"]) for record in records]
    assert kept == [(1, 0), (2, 1), (2, 8), (2, 9), (3, 10)]
    assert unreadable == []
    assert read_json_lines(path, 2) == records[:4]
    JsonLines(path, start_step=2)
    assert steps(path) == [1, 2, 2, 2]


def test_torn_and_strange_lines_are_numbered_and_empty_ones_ignored(path):
    strange = (
        "[1, 2]",
        '{"loss": 1.0}',
        *(f'{{"step": {x}}}' for x in ('"2"', "true", "-1", "1.5")),
    )
    path.write_text("\n".join(['{"step": 1}', "", *strange, '{"step": 2}', '{"step": 3, "lo']))
    records, unreadable = read_history(path)
    assert records == [{"step": 1}, {"step": 2}]
    assert unreadable == [3, 4, 5, 6, 7, 8, 10]


def test_a_resume_leaves_the_lines_that_it_keeps_as_they_are(path):
    before = path.read_bytes()
    JsonLines(path, start_step=6)
    assert path.read_bytes() == before
