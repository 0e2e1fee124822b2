"""The report of a run that is still training."""

import json

import pytest
from etils import epath

from dino_jax.run import live
from dino_jax.run.live import LiveReport


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def slow(tmp_path, monkeypatch):
    """A report that takes 2 seconds, its clock, and how often it was written."""
    clock, written = Clock(), []

    def write(workdirs, out):
        clock.now += 2.0
        written.append((list(workdirs), out))

    monkeypatch.setattr(live, "write_report", write)
    return LiveReport(epath.Path(tmp_path), clock), clock, written


def test_reports_take_at_most_a_twentieth_of_the_time(slow):
    report, clock, written = slow
    assert report.update()
    clock.now += 39.9
    assert not report.update()
    clock.now += 0.2
    assert report.update()
    assert len(written) == 2


def test_the_last_report_is_always_written(slow):
    report, _, written = slow
    report.update()
    report.finish()
    assert len(written) == 2


def test_a_report_that_fails_counts_its_time_too(tmp_path, monkeypatch):
    clock = Clock()

    def fail(workdirs, out):
        clock.now += 2.0
        raise OSError("disk full")

    monkeypatch.setattr(live, "write_report", fail)
    report = LiveReport(epath.Path(tmp_path), clock)
    with pytest.raises(OSError, match="disk full"):
        report.update()
    assert not report.update()


def test_the_report_lies_in_the_workdir(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0}))
    LiveReport(epath.Path(tmp_path)).finish()
    assert (tmp_path / "report.html").read_text().startswith("<!DOCTYPE html>")
