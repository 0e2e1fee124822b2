"""The commands of docs/continuing.md, run with a small model, or at least checked by name."""

import re
import shlex
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from dino_jax.commands.config_file import load_config
from dino_jax.step.recipe import build_recipe
from tests.run_train import ROOT, SMALL, overrides, read_metrics, run

SMALLER = {name: value for name, value in SMALL.items() if name != "epochs"}
# Few steps: the teacher must follow the student at once. Digits that are known well enough.
QUICK = {"roles.teacher.momentum": 0.5, "roles.teacher.momentum_end": 0.5, "batch_size": 64}
QUICK |= {"optimizer.adamw.eps": 1e-8}
QUICK |= {"evaluations.knn.max_train_images": 400, "evaluations.knn.max_test_images": 200}


def commands():
    """The commands of the page as lists of arguments, in order."""
    page = (ROOT / "docs/continuing.md").read_text()
    text = "\n".join(re.findall(r"```bash\n(.*?)```", page, re.DOTALL)).replace("\\\n", " ")
    return [shlex.split(line)[2:] for line in text.splitlines() if line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("continuing")


def run_small(index: int, folder: Path):
    """Runs a command in `folder` with a small model; returns its workdir too."""
    arguments = [argument.replace("runs/", f"{folder}/") for argument in commands()[index]]
    changes = SMALLER | QUICK | {"runtime.compilation_cache": folder / "compiled"}
    if index == 0:
        changes |= {"epochs": 75.0, "optimizer.warmup_epochs": 5.0}
        changes |= {"evaluations.knn.every_epochs": 25.0}
    finished = run(*arguments, *overrides(changes))
    (workdir,) = (Path(a.partition("=")[2]) for a in arguments if a.startswith("--workdir"))
    return finished, workdir


def test_the_good_recipe_of_the_page_passes_and_a_hundred_times_its_rate_is_stopped(folder):
    assert run_small(0, folder)[0].code == 0
    (code, out, err), workdir = run_small(1, folder)
    assert (code, err) == (0, "")
    assert "head dino: imported" in out and "backbone for 2" in out
    assert "WORSE" not in out
    checked = [line["guard/knn10/teacher"] for line in read_metrics(workdir)[::2]]
    assert len(checked) == 7 and min(checked) > checked[0] - 0.05
    (code, out, err), workdir = run_small(2, folder)
    assert code == 1 and "Traceback" not in err
    assert "stopped: guard: step" in err and "WORSE by more than 0.05" in out
    assert read_metrics(workdir)[-1]["guard/knn10/teacher"] < checked[0] - 0.05


def test_the_two_recipes_of_the_page_differ_in_a_hundred_times_the_rate_only():
    good, destroyed = commands()[1:3]
    differing = [pair for pair in zip(good, destroyed, strict=True) if pair[0] != pair[1]]
    assert differing == [
        ("--workdir=runs/continued", "--workdir=runs/destroyed"),
        ("--config.optimizer.lr=1e-3", "--config.optimizer.lr=1e-1"),
    ]


def test_the_command_for_photos_has_values_that_fit_together():
    arguments = dict(argument.removeprefix("--").split("=", 1) for argument in commands()[3])
    config = load_config(arguments.pop("config"))
    del arguments["workdir"]
    for name, text in arguments.items():
        section, _, key = name.removeprefix("config.").rpartition(".")
        owner: ConfigDict = config
        for part in section.split("."):
            owner = owner[part] if part else owner
        kind = type(owner[key])
        owner[key] = tuple(map(int, text.strip("()").split(","))) if kind is tuple else kind(text)
    recipe = build_recipe(config, 50_000)
    assert recipe.network.backbone.table_grid == (37, 37)
    assert recipe.steps_per_epoch == 50_000 // config.batch_size
