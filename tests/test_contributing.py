"""CONTRIBUTING.md, followed to the letter: its files are written, registered and trained with."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
# **`path`** and the code below it
FILES = dict(re.findall(r"^\*\*`([\w/]+\.py)`\*\*\n\n```python\n(.*?)^```$", TEXT, re.S | re.M))
# `TABLE` in `file`
ROWS = re.findall(r"`([A-Z]+)`\s+in\s+`(dino_jax/[\w/]+)\.py`", TEXT)
CONFIG = "striped.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Trains for two steps in a folder that holds the files and nothing else."""
    folder = tmp_path_factory.mktemp("project")
    for path, code in FILES.items():
        (folder / Path(path).name).write_text(code)
    options = [
        "--workdir=run",
        "--config.batch_size=32",
        "--config.epochs=1.0",
        "--config.steps_per_epoch=2",
        "--config.optimizer.warmup_epochs=0.0",
        "--config.optimizer.freeze_last_layer_epochs=0.0",
        "--config.network.heads.dino.out_dim=64",
        "--config.runtime.log_every_steps=1",
        "--config.runtime.workers=1",
    ]
    command = "import sys; from dino_jax.__main__ import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-P", "-c", command, "train", f"--config={CONFIG}", *options],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return folder / "run"


def test_the_page_has_a_file_for_each_kind_of_thing():
    folders = {str(Path(path).parent) for path in FILES}
    assert folders == {
        "dino_jax/objectives",
        "dino_jax/models",
        "dino_jax/data/sources",
        "dino_jax/evaluation/online",
        ".",
    }


@pytest.mark.parametrize(("table", "file"), ROWS)
def test_the_tables_are_where_the_page_says(table, file):
    assert isinstance(getattr(importlib.import_module(file.replace("/", ".")), table), dict)


def test_every_table_is_named_in_the_page():
    assert {table for table, _ in ROWS} == {
        "OBJECTIVES",
        "HEADS",
        "BACKBONES",
        "SOURCES",
        "EVALUATIONS",
        "PROTOCOLS",
    }


def test_other_files_that_the_page_names_exist():
    for path in re.findall(r"`((?:dino_jax|tests)/[\w/.]*)`", TEXT):
        if path not in FILES:
            assert (ROOT / path).exists(), path


def test_two_steps_are_trained_and_measured(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["contrast/loss"] for line in lines if "contrast/loss" in line]
    assert len(losses) == 2 and all(0 < loss < 10 for loss in losses)
    spreads = [line["spread/student"] for line in lines if "spread/student" in line]
    assert len(spreads) == 2 and all(0 <= spread <= 1 for spread in spreads)


def test_the_config_of_the_run_names_what_was_added(run):
    config = json.loads((run / "config.json").read_text())
    assert config["network"]["backbone"]["kind"] == "patchnet"
    assert config["data"]["kind"] == "stripes"
    assert config["objectives"]["contrast"]["kind"] == "contrast"
    assert list(config["roles"]) == ["student"]


@pytest.mark.parametrize("path", FILES)
def test_the_files_have_the_style_of_the_project(path, tmp_path):
    file = tmp_path / Path(path).name
    file.write_text(FILES[path])
    ruff = [sys.executable, "-m", "ruff"]
    configured = ["--config", str(ROOT / "pyproject.toml"), str(file)]
    for command in (["check", "--ignore=I001"], ["format", "--check"]):
        done = subprocess.run([*ruff, *command, *configured], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
