"""The command dino-jax: its table of commands, their help, and the command lines of version 0.1."""

import ast
import importlib.util
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import dino_jax
from dino_jax.__main__ import COMMANDS, main
from dino_jax.commands.command_line import CommandParser, add_switch
from dino_jax.commands.old_names import MOVED

PACKAGE = Path(dino_jax.__file__).parent
# python -m NAME of version 0.1 -> the command of today
OLD_LINES = {
    "dino_jax.train": "train",
    "dino_jax.evaluate": "evaluate",
    "dino_jax.embed": "embed",
    "dino_jax.report": "report",
    "dino_jax.data.show": "show",
    "dino_jax.data.build": "build",
    "dino_jax.data.build_beam": "build-beam",
    "dino_jax.doctor": "doctor",
    "dino_jax.plan": "plan",
    "dino_jax.visualize": "visualize",
    "dino_jax.config_from_yaml": "convert",
    "dino_jax.pretrained.import_weights": "import",
    "dino_jax.pretrained.export_weights": "export",
}


def first_line_of(module: str) -> str:
    """Of the docstring of a module, which is not imported."""
    path = PACKAGE.parent / (module.replace(".", "/") + ".py")
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_says_what_the_module_says(name):
    assert first_line_of(COMMANDS[name].module) == COMMANDS[name].about


@pytest.mark.parametrize("name", COMMANDS)
def test_help_begins_with_what_the_command_does_and_ends_with_0(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    first, blank, usage = capsys.readouterr().out.splitlines()[:3]
    assert first == COMMANDS[name].about
    assert blank == "" and usage.startswith(f"usage: dino-jax {name} [-h]")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_the_help_lists_all_commands(arguments, capsys):
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown and x.about in shown for name, x in COMMANDS.items())


def test_the_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dino-jax {dino_jax.__version__}\n"


@pytest.mark.parametrize("line", ["import dino_jax", "import dino_jax.__main__ as m; m.main([])"])
def test_neither_the_package_nor_its_help_import_jax_or_numpy(line):
    code = f"{line}\nimport sys\nassert not {{'jax', 'numpy', 'absl'}} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("name", ["train", "plan", "doctor", "show"])
def test_help_says_how_the_config_is_overridden(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    shown = capsys.readouterr().out
    assert "--config.optimizer.lr=0.001" in shown and "dino-jax config NAME" in shown
    assert "quickstart," in shown


@pytest.mark.parametrize("name", ["trian", "evalaute", "embedd"])
def test_an_unknown_command_is_one_line_with_what_was_meant(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([name])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: unknown command '{name}'; did you mean") and "\n" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["embed", "x", "--out=y", "--nrmalize"], "unexpected --nrmalize; did you mean '--norm"),
        (["evaluate", "knn", "--checkpoint=x", "--dta=y"], "--dta=y; did you mean '--data'?"),
        (["export", "x"], "arguments are required: --out; see dino-jax export --help"),
        (["report", "x", "--out"], "--out: expected one argument; see dino-jax report --help"),
        (["train", "--config=quickstart"], "missing --workdir; a command looks like dino-jax"),
        (["plan", "--config=quickstart", "--topology=v5e:4x4", "--images=0"], "at least 1, got 0"),
        (["doctor", "--config.seed=1"], "'--config.seed=1' needs --config=NAME_OR_FILE"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1


@pytest.mark.parametrize("spelt", ["--num-heads=6", "--num_heads=6", "-num_heads=6"])
def test_underscores_and_a_single_dash_are_taken(spelt):
    parser = CommandParser("x", "Does it.")
    parser.add_argument("--num-heads", type=int)
    parser.add_argument("word", nargs="?")
    assert parser.parse_args([spelt]).num_heads == 6
    assert parser.parse_args([spelt, "a_word"]).word == "a_word"


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("--pull-up", True),
        ("--pull_up=true", True),
        ("--pull-up=False", False),
        ("--no-pull-up", False),
        ("--nopull_up", False),
    ],
)
@pytest.mark.parametrize("default", [False, True])
def test_a_switch_is_spelt_as_in_version_0_1_too(argument, value, default):
    parser = CommandParser("x", "Does it.")
    add_switch(parser, "--pull-up", "whether", default)
    assert parser.parse_args([]).pull_up is default
    assert parser.parse_args([argument]).pull_up is value


@pytest.mark.parametrize("module", OLD_LINES)
def test_command_lines_of_version_0_1_work(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["old", "--help"])
    with warnings.catch_warnings(), pytest.raises(SystemExit) as stopped:
        warnings.simplefilter("ignore")
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith(COMMANDS[OLD_LINES[module]].about)


def test_a_command_line_of_version_0_1_works_in_a_process():
    arguments = ["-m", "dino_jax.pretrained.import_weights", "no.pth", "--out=x", "--num_heads=6"]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "no.pth" in done.stderr


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_is_the_module_itself(old):
    if old == "dino_jax.data.build_beam" and not importlib.util.find_spec("apache_beam"):
        pytest.skip("apache_beam is not installed")
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} is now {MOVED[old]}"):
        module = importlib.import_module(old)
    assert module is importlib.import_module(MOVED[old])
    assert module.__spec__.name == MOVED[old]


def test_the_documented_imports_of_version_0_1_work():
    code = """
import dino_jax, warnings
warnings.simplefilter("ignore")
from dino_jax.models.network import build_network
from dino_jax.pretrained import from_torch, read_state_dict, split_state_dict, to_torch
from dino_jax.pretrained.torch_names import to_torch as same
from dino_jax.checkpointing import load_teacher
from dino_jax.kernels.branches import Branches
import dino_jax.weights.torch_names
assert same is to_torch is dino_jax.weights.torch_names.to_torch
assert callable(dino_jax.load) and dino_jax.checkpointing.load_teacher is load_teacher
"""
    subprocess.run([sys.executable, "-c", code], check=True)
