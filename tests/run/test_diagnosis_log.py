"""What the diagnosis of a run prints, keeps and stops."""

import io
import json

import pytest
from etils import epath

from dino_jax.run.diagnosis_log import CollapsedRunError, DiagnosisLog
from dino_jax.run.screen import Progress
from dino_jax.run.watch import NotFiniteError
from tests.run.test_diagnosis import line, run_of

COLLAPSED = {"health/effective_rank": 1.2}


@pytest.fixture
def screen():
    return io.StringIO()


@pytest.fixture
def open_log(tmp_path, screen):
    def open_log(start_step=0, history=(), stop_on_collapse=False, total_steps=1000):
        progress = Progress(start_step, 1000, 4, stream=screen)
        options = dict(grace_steps=0, total_steps=total_steps, stop_on_collapse=stop_on_collapse)
        return DiagnosisLog(epath.Path(tmp_path), start_step, history, progress, **options)

    return open_log


def add(log, records):
    for record in records:
        log.add(record["step"], {name: x for name, x in record.items() if name != "step"})


def entries(tmp_path):
    return [json.loads(text) for text in (tmp_path / "diagnosis.jsonl").read_text().splitlines()]


def test_only_changes_are_printed_and_kept(open_log, tmp_path, screen):
    with open_log() as log:
        add(log, run_of(6))
        add(log, [line(step, **COLLAPSED) for step in range(70, 130, 10)])
    assert [(entry["step"], entry["state"]) for entry in entries(tmp_path)] == [
        (40, "healthy"),
        (100, "dimensional_collapse"),
    ]
    assert entries(tmp_path)[1].keys() == {
        "step", "state", "title", "evidence", "advice", "severity"
    }  # fmt: skip
    first, second = screen.getvalue().splitlines()
    assert first.startswith("diagnosis   Healthy: loss 4")
    assert second.startswith("diagnosis   Features collapse to a line: effective rank 1.2")
    assert "Lower config.optimizer" in second


def test_a_resumed_run_goes_on_with_its_state_and_drops_later_entries(open_log, tmp_path, screen):
    records = run_of(6) + [line(step, **COLLAPSED) for step in range(70, 130, 10)]
    with open_log() as log:
        add(log, records)
    before = screen.getvalue()
    with open_log(start_step=90, history=records[:9]) as log:
        assert [entry["step"] for entry in entries(tmp_path)] == [40]
        add(log, records[9:])
    assert [entry["step"] for entry in entries(tmp_path)] == [40, 100]
    assert screen.getvalue() == before + before.splitlines(keepends=True)[-1]


def test_a_failure_ends_the_run_only_if_asked(open_log, tmp_path):
    records = run_of(8, **COLLAPSED)
    with open_log() as log:
        add(log, records)
    message = r"collapse to a line at step 40 \(config.runtime.stop_on_collapse\): effective rank"
    with pytest.raises(CollapsedRunError, match=message), open_log(stop_on_collapse=True) as log:
        add(log, records)
    assert [entry["state"] for entry in entries(tmp_path)] == ["dimensional_collapse"]


def test_why_a_run_was_given_up_is_kept(open_log, tmp_path):
    with pytest.raises(NotFiniteError), open_log() as log:
        add(log, run_of(2))
        raise NotFiniteError("10 steps in a row were not finite")
    (entry,) = entries(tmp_path)
    assert (entry["step"], entry["state"], entry["severity"]) == (20, "given_up", "failure")
    assert entry["evidence"] == "10 steps in a row were not finite"


@pytest.mark.parametrize(("lines", "states"), [(1, []), (2, ["healthy"]), (3, ["healthy"])])
def test_a_short_run_ends_with_a_verdict_from_the_lines_that_it_has(
    open_log, tmp_path, lines, states
):
    records = run_of(lines)
    with open_log(total_steps=records[-1]["step"]) as log:
        add(log, records)
    written = (tmp_path / "diagnosis.jsonl").exists()
    assert [entry["state"] for entry in entries(tmp_path)] == states if written else not states


def test_a_short_run_that_ends_collapsed_is_told_but_not_stopped(open_log, tmp_path):
    records = [line(step, **COLLAPSED) for step in (40, 80, 120)]
    with open_log(total_steps=120, stop_on_collapse=True) as log:
        add(log, records)
    (entry,) = entries(tmp_path)
    assert (entry["step"], entry["state"]) == (120, "dimensional_collapse")
