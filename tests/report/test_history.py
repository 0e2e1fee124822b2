"""What is read from a workdir, whole or damaged."""

import json
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from dino_jax.report.history import (
    build_curves,
    distinct_names,
    read_run,
    read_runs,
)
from dino_jax.run.metrics_file import MetricsWriter
from dino_jax.workdir.dotted_names import flatten

GOLDEN = Path(__file__).parents[1] / "golden"


def write_lines(path, *lines):
    path.write_text("".join(x if isinstance(x, str) else json.dumps(x) + "\n" for x in lines))


def test_a_run_resumed_three_times_is_one_history_without_duplicates(tmp_path):
    """As training writes it: killed at 5, 8 and 11, resumed at 3, 6 and 9, torn in between."""
    for resumed, killed in ((0, 5), (3, 8), (6, 11), (9, 12)):
        with MetricsWriter(tmp_path, start_step=resumed) as writer:
            for step in range(resumed + 1, killed + 1):
                writer.write(step, {"loss": step / 2, "started_at": resumed})
        if killed == 8:
            with (tmp_path / "metrics.jsonl").open("a") as file:
                file.write('{"step": 9, "lo')
    (run,) = read_runs([tmp_path])
    np.testing.assert_array_equal(run.curves["loss"].steps, np.arange(1, 13))
    np.testing.assert_array_equal(run.curves["loss"].values, np.arange(1, 13) / 2)
    np.testing.assert_array_equal(run.curves["started_at"].values, np.repeat([0, 3, 6, 9], 3))
    assert run.notes == ["there is no config.json"]
    assert run.last_step == 12


def test_torn_and_strange_lines_are_left_out_and_named(tmp_path):
    path = epath.Path(tmp_path) / "metrics.jsonl"
    write_lines(
        path,
        {"step": 1, "loss": 2.0},
        "\n",
        "[1, 2]\n",
        '{"loss": 1.0}\n',
        '{"step": "2", "loss": 1.0}\n',
        '{"step": true, "loss": 1.0}\n',
        '{"step": -1, "loss": 1.0}\n',
        {"step": 2, "loss": None, "text": "x", "flag": True, "list": [1]},
        '{"step": 3, "lo',
    )
    run = read_run(epath.Path(tmp_path), "x")
    assert run.curves.keys() == {"loss"}
    np.testing.assert_array_equal(run.curves["loss"].values, [2.0, np.nan])
    assert "metrics.jsonl: torn lines left out: 3, 4, 5, 6, 7, 9" in run.notes


def test_two_lines_of_one_step_are_joined():
    curves = build_curves([{"step": 1, "loss": 2.0}, {"step": 1, "knn": 3.0}])
    assert {name: curve.values.tolist() for name, curve in curves.items()} == {
        "knn": [3.0],
        "loss": [2.0],
    }


def test_a_folder_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; give the --workdir of a run"):
        read_runs([tmp_path / "no"])


def test_a_folder_without_metrics_is_an_error_that_shows_what_is_there(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(FileNotFoundError, match=r"holds no metrics.jsonl.*'photo.jpg'"):
        read_runs([tmp_path])


def test_metrics_without_a_readable_line_are_an_error(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", '{"step": 3, "lo')
    with pytest.raises(ValueError, match=r"no line with metrics \(1 unreadable"):
        read_runs([tmp_path])


def test_diagnoses_are_read_and_unknown_severities_are_warnings(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", {"step": 9, "loss": 1.0})
    whole = {"state": "healthy", "title": "Healthy", "evidence": "e", "advice": "a"}
    write_lines(
        tmp_path / "diagnosis.jsonl",
        {"step": 2, "severity": "ok", **whole},
        {"step": 7, "severity": "odd", "state": "x"},
        '{"step": 9',
    )
    run = read_run(epath.Path(tmp_path), "x")
    assert [(d.step, d.severity, d.title) for d in run.diagnosis] == [
        (2, "ok", "Healthy"),
        (7, "warning", ""),
    ]
    assert "diagnosis.jsonl: torn lines left out: 3" in run.notes


def test_a_config_that_cannot_be_read_is_a_note(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", {"step": 9, "loss": 1.0})
    (tmp_path / "config.json").write_text('{"seed": ')
    run = read_run(epath.Path(tmp_path), "x")
    assert (run.config, run.notes) == ({}, ["config.json cannot be read"])


def read_config(tmp_path, text):
    write_lines(tmp_path / "metrics.jsonl", {"step": 9, "loss": 1.0})
    (tmp_path / "config.json").write_text(text)
    return read_run(epath.Path(tmp_path), "x").config


@pytest.mark.parametrize("name", ["quickstart", "digits_distilled"])
def test_a_config_of_0_1_is_read_in_the_form_of_today(tmp_path, name):
    """Its values are those of today's config; what it lacks are options that are new."""
    old = flatten(read_config(tmp_path, (GOLDEN / f"v01/configs/{name}.json").read_text()))
    new = flatten(read_config(tmp_path, (GOLDEN / f"configs/{name}.json").read_text()))
    new["runtime.compilation_cache"] = ""  # the default of then
    assert old == {key: new[key] for key in old}
    assert "format" not in new and len(old) > 200


@pytest.mark.parametrize(
    "config", [{"format": 999, "seed": 1}, {"knn": {"test": 1}}, {"optimizer": [1]}]
)
def test_a_config_that_cannot_be_upgraded_is_read_as_it_is(tmp_path, config):
    assert read_config(tmp_path, json.dumps(config)) == config


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["/runs/a"], ["a"]),
        (["/runs/a", "/runs/b"], ["a", "b"]),
        (["/x/a", "/y/a"], ["x/a", "y/a"]),
        (["gs://bucket/a", "/a"], ["bucket/a", "a"]),
        (["/a", "/a"], ["a (1)", "a (2)"]),
    ],
)
def test_names_are_the_shortest_ends_that_differ(folders, names):
    assert distinct_names([epath.Path(folder) for folder in folders]) == names
