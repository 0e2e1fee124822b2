"""metrics.jsonl: strict JSON, one history over all restarts."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.run.metrics_file import MetricsWriter


def read_lines(workdir: Path) -> list[dict]:
    """metrics.jsonl under a strict parser."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def write_run(workdir: Path, start: int, stop: int) -> None:
    with MetricsWriter(workdir, start_step=start) as writer:
        for step in range(start + 1, stop + 1):
            writer.write(step, {"loss": step / 2, "run": start})


def test_each_write_is_one_line_that_is_on_disk_at_once(tmp_path):
    with MetricsWriter(tmp_path, start_step=0) as writer:
        writer.write(1, {"loss": jnp.float32(0.5), "lr": np.float64(1e-4)})
        writer.write(1, {"knn": 97})
        assert read_lines(tmp_path) == [
            {"step": 1, "loss": 0.5, "lr": 1e-4},
            {"step": 1, "knn": 97.0},
        ]


def test_numbers_that_are_not_finite_are_null(tmp_path):
    with MetricsWriter(tmp_path, start_step=0) as writer:
        writer.write(3, {"a": float("nan"), "b": float("inf"), "c": -np.inf, "d": 1.0})
    assert read_lines(tmp_path) == [{"step": 3, "a": None, "b": None, "c": None, "d": 1.0}]


def test_a_metric_that_comes_after_close_is_refused(tmp_path):
    writer = MetricsWriter(tmp_path, start_step=0)
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="step 3 came after"):
        writer.write(3, {"loss": 1.0})


def test_a_metric_called_step_is_refused(tmp_path):
    with MetricsWriter(tmp_path, start_step=0) as writer, pytest.raises(ValueError, match="step"):
        writer.write(3, {"step": 4.0})


def test_resuming_continues_one_history_without_duplicates(tmp_path):
    write_run(tmp_path, 0, 5)
    write_run(tmp_path, 3, 6)
    assert [(x["step"], x["run"]) for x in read_lines(tmp_path)] == [
        (1, 0), (2, 0), (3, 0), (4, 3), (5, 3), (6, 3)
    ]  # fmt: skip


@pytest.mark.parametrize("torn", [b'{"step": 4, "lo', b'{"step"', b"\x00\x00\x00", b"4", b"null"])
def test_a_torn_last_line_is_dropped_on_resume(tmp_path, torn):
    write_run(tmp_path, 0, 3)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    write_run(tmp_path, 3, 5)
    assert [x["step"] for x in read_lines(tmp_path)] == [1, 2, 3, 4, 5]


def test_a_run_that_starts_anew_in_a_used_directory_keeps_no_line(tmp_path):
    with MetricsWriter(tmp_path, start_step=0) as writer:
        writer.write(0, {"knn": 42.0})
        writer.write(1, {"loss": 5.0})
    write_run(tmp_path, 0, 2)
    assert [x["step"] for x in read_lines(tmp_path)] == [1, 2]
