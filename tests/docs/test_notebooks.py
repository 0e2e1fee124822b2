"""docs/notebooks, run from the first to the last cell, one after another in one folder."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import quick_compiler

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "docs/notebooks").glob("*.py"))
# One process for all: each would begin with the same imports.
DRIVER = """
import runpy, sys
for script in sys.argv[1:]:
    print("#", script, flush=True)
    runpy.run_path(script, run_name="__main__")
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder in which they ran, and what each of them printed."""
    folder = tmp_path_factory.mktemp("notebooks")
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, *map(str, SCRIPTS)],
        cwd=folder,
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": quick_compiler.flags(devices=1),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    printed = re.split(r"^# .*/(\w+)\.py$", done.stdout, flags=re.M)[1:]
    return folder, dict(zip(printed[::2], printed[1::2], strict=True))


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_all_run_in_their_order(ran):
    _, printed = ran
    assert list(printed) == [script.stem for script in SCRIPTS]
    assert len(SCRIPTS) == 5 and all(printed.values())


def test_digits_are_trained_measured_and_drawn(ran):
    folder, printed = ran
    (accuracy,) = re.findall(r"([\d.]+) % of 256 test digits", printed["1_digits_to_attention"])
    assert 20 < float(accuracy) < 98  # chance is 10
    assert (folder / "runs/digits/report.html").is_file()
    assert (folder / "runs/crops.png").is_file()
    assert len(list((folder / "runs/attention").glob("*.png"))) == 3


def test_a_photo_finds_itself_and_filters_hold(ran):
    _, printed = ran
    text = printed["2_search_your_photos"]
    first, *others = re.findall(r"^\d +([\d.]+) +(digit_\d/\d+\.png)$", text, re.M)
    assert first == ("1.0000", "digit_0/017.png") and len(others) == 4 + 3
    assert not any(name.startswith("digit_0") for _, name in others[-3:])
    assert "proven: True" in text and "recall@1 " in text


def test_the_broken_run_is_named(ran):
    folder, printed = ran
    verdicts = read_lines(folder / "runs/too_warm/diagnosis.jsonl")
    assert verdicts[-1]["state"] == "temperature_too_high"
    assert "temperature_too_high |" in printed["3_read_a_diagnosis"]


def test_the_new_method_learns_and_checks_its_options(ran):
    _, printed = ran
    text = printed["4_add_a_method"]
    first, last = map(float, re.findall(r"loss ([\d.]+) at the first step, ([\d.]+)", text)[0])
    assert last < 0.6 * first
    assert "has no 'redundancies'; did you mean 'redundancy'?" in text


def test_weights_come_back_as_they_were(ran):
    folder, printed = ran
    text = printed["5_weights_in_and_out"]
    (difference,) = re.findall(r"a feature after out and in: (\S+)", text)
    assert float(difference) < 1e-5 and "equal: True" in text
    assert (folder / "weights/huggingface/model.safetensors").is_file()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_is_text_first_and_links_only_to_what_exists(script):
    text = script.read_text()
    assert text.startswith("# %% [markdown]\n# # ")
    for target in re.findall(r"\]\((?!https:)([^)#\s]+)", text):
        assert (script.parent / target).exists(), target
    words = " ".join(re.sub("^# ?", "", text, flags=re.M).split())
    assert f"python docs/notebooks/{script.name}`" in words
