"""What config.json holds, and which configs a workdir refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict, config_dict

from dino_jax.workdir import config_json as wd


def make_config(**changes) -> ConfigDict:
    config = ConfigDict(
        {
            "seed": 0,
            "crops": {"scale": (0.4, 1.0), "count": 2},
            "optimizer": {"lr": 0.0005, "clip": None, "nesterov": False},
            "runtime": {"workers": 4, "mesh": {"data": -1}},
        }
    )
    config.update_from_flattened_dict(changes)
    return config


def read_json(workdir: Path) -> dict:
    return json.loads((workdir / "config.json").read_text())


def test_a_new_workdir_gets_the_config_sorted_and_nothing_else(tmp_path):
    path = wd.open_workdir(tmp_path / "a" / "run", make_config())
    assert read_json(tmp_path / "a" / "run") == {
        "seed": 0,
        "crops": {"scale": [0.4, 1.0], "count": 2},
        "optimizer": {"lr": 0.0005, "clip": None, "nesterov": False},
        "runtime": {"workers": 4, "mesh": {"data": -1}},
    }
    text = (tmp_path / "a/run/config.json").read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"
    assert [p.name for p in path.iterdir()] == ["config.json"]


def test_the_same_config_opens_the_workdir_again_without_writing(tmp_path):
    wd.open_workdir(tmp_path, make_config())
    before = (tmp_path / "config.json").stat()
    wd.open_workdir(tmp_path, make_config())
    after = (tmp_path / "config.json").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


def test_another_config_is_refused_with_every_difference(tmp_path):
    wd.open_workdir(tmp_path, make_config())
    other = make_config(**{"optimizer.lr": 0.001, "crops.scale": (0.4, 0.9)})
    other.optimizer.beta = 0.9
    del other.seed
    with pytest.raises(ValueError) as error:
        wd.open_workdir(tmp_path, other)
    lines = [line for line in str(error.value).splitlines() if line.startswith("  ")]
    assert lines == [
        "  config.crops.scale: workdir has [0.4, 1.0], this run has [0.4, 0.9]",
        "  config.optimizer.beta: workdir has nothing, this run has 0.9",
        "  config.optimizer.lr: workdir has 0.0005, this run has 0.001",
        "  config.seed: workdir has 0, this run has nothing",
    ]
    assert "new --workdir" in str(error.value)
    assert read_json(tmp_path)["optimizer"]["lr"] == 0.0005


def test_runtime_may_change_and_is_written_down(tmp_path):
    wd.open_workdir(tmp_path, make_config())
    wd.open_workdir(tmp_path, make_config(**{"runtime.workers": 0, "runtime.mesh.data": 8}))
    assert read_json(tmp_path)["runtime"] == {"workers": 0, "mesh": {"data": 8}}
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_a_boolean_is_not_the_number_one_but_one_is_one_point_zero(tmp_path):
    wd.open_workdir(tmp_path, ConfigDict({"a": 1, "b": 1}))
    wd.open_workdir(tmp_path, ConfigDict({"a": 1.0, "b": 1}))
    with pytest.raises(ValueError, match=r"config\.b: workdir has 1, this run has True"):
        wd.open_workdir(tmp_path, ConfigDict({"a": 1, "b": True}))


@pytest.mark.parametrize("text", ["", '{"seed": 0, "crops"', "[1]", "\x00\x00"])
def test_a_damaged_config_json_is_a_clear_error_and_stays(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json is damaged .* delete the file"):
        wd.open_workdir(tmp_path, make_config())
    assert (tmp_path / "config.json").read_text() == text


@pytest.mark.parametrize("inside", ["", "below"])
def test_a_file_as_workdir_is_a_clear_error(tmp_path, inside):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=r"workdir '.*file.*' cannot be used: .*--workdir"):
        wd.open_workdir(tmp_path / "file" / inside, make_config())
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc: not even root writes it")
@pytest.mark.parametrize("path", ["/proc/self", "/proc/run"])
def test_a_workdir_that_cannot_be_written_is_a_clear_error(path):
    with pytest.raises(OSError, match=r"workdir '/proc.*' cannot be used: .*--workdir"):
        wd.open_workdir(path, make_config())


def test_a_relative_workdir_and_a_tilde_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert str(wd.open_workdir("run", make_config())) == str(tmp_path / "run")
    assert str(wd.open_workdir("~/run", make_config())) == str(tmp_path / "home/run")


def test_every_value_of_a_config_becomes_strict_json():
    config = ConfigDict(
        {
            "tuple": (1, (2, "x")),
            "none": None,
            "numpy": (np.float32(0.5), np.int64(3), np.bool_(True), np.arange(2)),
            "milestones": {100: 0.1},
            "infinite": float("inf"),
            "nan": float("nan"),
            "path": Path("a/b"),
            "unset": config_dict.placeholder(int),
            "base": 2,
        }
    )
    config.reference = config.get_ref("base") * 3

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    assert json.loads(wd.config_to_json(config), parse_constant=refuse) == {
        "tuple": [1, [2, "x"]],
        "none": None,
        "numpy": [0.5, 3, True, [0, 1]],
        "milestones": {"100": 0.1},
        "infinite": "inf",
        "nan": "nan",
        "path": "a/b",
        "unset": None,
        "base": 2,
        "reference": 6,
    }


@pytest.mark.parametrize("value", [np.float32, len, {1, 2}, 1j])
def test_a_value_that_json_cannot_hold_is_named(value):
    with pytest.raises(ValueError, match=r"config\.network\.dtype is .* cannot hold"):
        wd.config_to_json(ConfigDict({"network": {"dtype": value}}))


def test_a_required_value_that_is_not_set_is_named():
    config = ConfigDict({"data": {"path": config_dict.required_placeholder(str)}})
    with pytest.raises(ValueError, match=r"config\.data has a value that is not set"):
        wd.config_to_json(config)


def test_overrides_are_described_with_both_values():
    changed = make_config(**{"optimizer.lr": 0.001, "crops.scale": (0.25, 1.0)})
    changed.optimizer.clip = 3.0
    assert wd.describe_overrides(make_config(), changed) == [
        "config.crops.scale = [0.25, 1.0] (command line; file has [0.4, 1.0])",
        "config.optimizer.clip = 3.0 (command line; file has None)",
        "config.optimizer.lr = 0.001 (command line; file has 0.0005)",
    ]
    assert wd.describe_overrides(make_config(), make_config()) == []


def test_more_epochs_are_refused_with_the_way_to_train_on(tmp_path):
    wd.open_workdir(tmp_path, make_config(epochs=3.0))
    with pytest.raises(
        ValueError, match=f"a new --workdir with --config.init_from.path={tmp_path}"
    ):
        wd.open_workdir(tmp_path, make_config(epochs=6.0))
    with pytest.raises(ValueError) as other:
        wd.open_workdir(tmp_path, make_config(**{"epochs": 6.0, "seed": 3}))
    assert "init_from" not in str(other.value)
