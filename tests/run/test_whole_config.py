"""The whole config: what is misspelt or does not fit is refused by every command alike."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest
from ml_collections import ConfigDict

from dino_jax.commands.config_file import load_config, shipped_configs
from dino_jax.config.section import UnknownNameError
from dino_jax.devices.sharding import make_mesh
from dino_jax.doctor import run as doctor
from dino_jax.plan.program import lower_step
from dino_jax.run.check import check_config
from dino_jax.run.show_config import show_config
from dino_jax.run.whole_config import (
    Config,
    complete_config,
    default_config,
    read_config,
    read_plain,
    to_plain,
)
from dino_jax.workdir.config_json import config_to_json

GOLDEN = Path(__file__).parents[1] / "golden"
ROOT = Path(__file__).parents[2]
IMAGES = 1438

# Names as people mistype them, and what the message suggests.
MISSPELT = {
    "optimizer.warmup_epoch": "warmup_epochs",
    "objectives.dino.studnet_temperature": "student_temperature",
    "network.heads.dino.outdim": "out_dim",
    "runtime.sav_every_steps": "save_every_steps",
    "network.backbone.drop_path": "drop_path_rate",
    "roles.teacher.momentm": "momentum",
    "evaluations.knn.kk": "k",
    "batchsize": "batch_size",
    "optimizer.adamw.epsilon": "eps",
    "augment.crops.local.scales": "scale",
    "masking.probabilty": "probability",
    "data.paths": "path",
    "guard.margn": "margin",
    "probes.counts": "count",
    "profile.step": "steps",
    "init_from.headz": "heads",
}

# Values that some command of version 0.1 accepted and another refused, and others of the kind.
WRONG: dict[str, dict[str, Any]] = {
    "config.evaluations.knn.k": {"evaluations.knn.k": ()},
    "config.evaluations.knn.kind": {"evaluations.knn.kind": "nn"},
    "config.guard.action": {"guard.action": "restart"},
    "config.probes.evaluation": {"probes.evaluation": "val"},
    "writers": {"runtime.writers": ("tensorbord",)},
    "profile.steps": {"profile.steps": (5,)},
    "no-such-run-to-start-from": {"init_from.path": "no-such-run-to-start-from"},
    "no-such-frozen-run": {
        "roles.teacher.follow": "frozen",
        "roles.teacher.path": "no-such-frozen-run",
    },
    "config.roles": {"roles.teacher.follow": "learns"},
    "config.evaluated": {"evaluated": "techer"},
    "config.objectives.dino reads the role": {"objectives.dino.targets": "techer"},
    "config.roles.student.sees": {"roles.student.sees": ("globl",)},
    "config.optimizer.lr": {"optimizer.lr": "fast"},
    "config.network.dtype": {"network.dtype": "float16"},
    "config.image_size": {"image_size": 4},
    "config.evaluations.knn.batch_size": {"evaluations.knn.batch_size": 3},
}


def quickstart(changes: dict[str, Any] | None = None) -> ConfigDict:
    config = complete_config(load_config("quickstart"))
    for name, value in (changes or {}).items():
        *sections, option = name.split(".")
        place = config
        for section in sections:
            place = place[section]
        with place.unlocked(), place.ignore_type():
            place[option] = value
    return config


@pytest.mark.parametrize("name", sorted(MISSPELT))
def test_a_misspelt_name_in_a_file_is_an_error_with_a_suggestion(name: str):
    with pytest.raises(UnknownNameError) as error:
        read_config(quickstart({name: 1}))
    assert error.value.place == f"config.{name}"
    assert f"did you mean {MISSPELT[name]!r}?" in str(error.value)


@pytest.mark.parametrize("name", sorted(MISSPELT))
def test_a_misspelt_override_is_an_error_with_a_suggestion(name: str, capsys: Any):
    from dino_jax.train import parse

    with pytest.raises(SystemExit) as end:
        parse(["--config=quickstart", "--workdir=w", f"--config.{name}=1"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert name.rpartition(".")[2] in said and MISSPELT[name] in said


@pytest.mark.parametrize("what", sorted(WRONG))
def test_what_one_command_refuses_all_refuse(what: str, tmp_path: Path):
    """Train, doctor and plan read the config alike, and go through one check of it."""
    given, workdir = quickstart(WRONG[what]), str(tmp_path / "run")
    with pytest.raises((ValueError, OSError), match=re.escape(what)) as refused:
        check_config(read_config(given), IMAGES, make_mesh(1), workdir)
    try:
        config = read_config(given)
    except ValueError:
        return  # no command gets any further
    result = doctor.examine_config(config, IMAGES, workdir)
    assert (result.level, result.text) == ("FAIL", str(refused.value))
    with pytest.raises((ValueError, OSError)) as by_plan:
        lower_step(config, IMAGES, jax.devices())
    assert str(by_plan.value) == str(refused.value)


@pytest.mark.parametrize("command", ["train", "doctor", "plan"])
def test_a_command_names_a_misspelt_name_of_a_config_file(command: str, tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from configs import quickstart\n\n\ndef get_config():\n"
        "    config = quickstart.get_config()\n"
        "    with config.unlocked():\n        config.optimizer.warmup_epoch = 1.0\n"
        "    return config\n"
    )
    places = {"plan": ["--topology=v5e:2x2"]}.get(command, [f"--workdir={tmp_path}/run"])
    done = subprocess.run(
        [sys.executable, "-m", "dino_jax", command, f"--config={file}", *places],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (1, 2)
    said = done.stdout + done.stderr
    assert "config.optimizer has no 'warmup_epoch'; did you mean 'warmup_epochs'?" in said
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_name_of_version_0_1_says_what_it_is_called_now():
    with pytest.raises(ValueError, match=r"config.knn of version 0.1 is config.evaluations"):
        read_config(quickstart({"knn": ConfigDict({"k": (10,)})}))


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_a_shipped_config_is_what_it_was(name: str):
    """The recorded JSON shows what a change of a default or of a parent does to every config."""
    given = complete_config(load_config(name))
    text = config_to_json(to_plain(read_config(given)))
    assert text == (GOLDEN / "configs" / f"{name}.json").read_text()


@pytest.mark.parametrize("name", sorted(p.stem for p in (GOLDEN / "v01" / "configs").glob("*")))
def test_a_config_json_of_version_0_1_is_todays_config(name: str):
    plain = json.loads((GOLDEN / "v01" / "configs" / f"{name}.json").read_text())
    old, _ = read_plain(plain)
    todays: Any = load_config(name)
    todays.runtime.compilation_cache = ""  # then the default
    assert old == read_config(complete_config(todays))


def test_the_defaults_are_the_vanilla_run_and_survive_json():
    assert read_config(load_config("vits16_vanilla")) == Config()
    assert read_config(default_config()) == Config()
    written = json.loads(config_to_json(to_plain(Config())))
    assert read_plain(written) == (Config(), [])


def test_a_later_format_is_refused():
    with pytest.raises(ValueError, match="format 99, this version of dino_jax knows formats up to"):
        read_plain({"format": 99})


def test_a_missing_name_has_its_default_and_is_listed():
    plain = json.loads(config_to_json(to_plain(Config())))
    del plain["optimizer"]["freeze"]
    config, defaulted = read_plain(plain)
    assert (config, defaulted) == (Config(), ["config.optimizer.freeze"])


def test_the_printed_config_has_meanings_and_marks_differences():
    lines = show_config(read_config(load_config("quickstart"))).splitlines()
    assert any(
        line.startswith("* config.batch_size = 64 ") and line.endswith("base: 512")
        for line in lines
    )
    assert any(line.startswith("  config.optimizer.freeze = 'skip'") for line in lines)
    assert all("#" in line for line in lines)


def test_a_config_json_that_is_not_one_of_a_run_is_named():
    for plain in ({"optimizer": 3}, {"knn": {"test": {}}}, {"teacher": []}):
        with pytest.raises(ValueError, match=r"config.json of the workdir cannot be read"):
            read_plain(plain)
    with pytest.raises(ValueError, match="holds imported weights"):
        read_plain({"imported": {"licence": "x"}, "network": {}})


def test_without_evaluations_no_probe_images_are_asked_for():
    given = quickstart()
    with given.unlocked():
        given.evaluations = ConfigDict()
    assert check_config(read_config(given), IMAGES, make_mesh(1)).config.evaluations == {}
