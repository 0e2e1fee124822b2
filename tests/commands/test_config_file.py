"""Config files by name and by path, and what they can import."""

import sys
from pathlib import Path

import pytest

import dino_jax
from dino_jax.commands.command_line import UsageError
from dino_jax.commands.config_file import (
    describe_shipped,
    find_config,
    load_config,
    shipped_configs,
)

ROOT = Path(__file__).parent.parent.parent


def test_every_config_of_the_repository_is_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {path.stem for path in (ROOT / "configs").glob("*.py")}
    assert shipped_configs().keys() == names
    for name in names:
        assert find_config(name) == ROOT / f"configs/{name}.py"
    assert load_config("quickstart").to_json() == dino_jax.load_config("quickstart").to_json()


def test_each_shipped_config_has_a_line():
    lines = describe_shipped().splitlines()
    assert [line.split()[0] for line in lines] == list(shipped_configs())
    assert all(len(line.split()) > 3 for line in lines)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("quikstart", "no shipped config is called 'quikstart'; did you mean 'quickstart'?"),
        ("mine", "no shipped config is called 'mine'; known: ['byol_r50', 'digits_byol'"),
        ("mine.py", "config file 'mine.py' does not exist (current folder: "),
        ("configs/quickstart.py", "the shipped one is --config=quickstart"),
        ("here/quickstart", "config file 'here/quickstart' does not exist"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        load_config(name)
    assert words in str(caught.value)


def test_a_file_by_path_wins_over_a_shipped_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart.py").write_text(CONFIG.format(seed=41))
    assert load_config("./quickstart.py").seed == load_config("quickstart.py").seed == 41
    assert load_config("quickstart").seed != 41


CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(dict(seed={seed}))
"""
IMPORTING = """
from configs import {name}

def get_config():
    return {name}.get_config()
"""


def test_a_file_anywhere_imports_shipped_configs_and_leaves_no_trace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [x for x in sys.path if x not in ("", ".", str(ROOT))])
    (tmp_path / "mine.py").write_text(IMPORTING.format(name="quickstart"))
    before = {name: x for name, x in sys.modules.items() if name.split(".")[0] == "configs"}
    assert load_config("mine.py").to_json() == load_config("quickstart").to_json()
    after = {name: x for name, x in sys.modules.items() if name.split(".")[0] == "configs"}
    assert after == before


def test_a_file_imports_modules_beside_it_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "beside_mine.py").write_text("SEED = 43\n")
    (tmp_path / "mine.py").write_text(
        CONFIG.format(seed="beside_mine.SEED") + "\nimport beside_mine"
    )
    assert load_config(str(tmp_path / "mine.py")).seed == 43
    load_config("quickstart")
    assert str(ROOT / "configs") not in sys.path


@pytest.mark.parametrize("is_package", [False, True])
def test_configs_beside_a_file_come_first_then_shipped_ones_then_those_on_the_path(
    tmp_path, monkeypatch, is_package
):
    for project, seed in (("beside", 1), ("path", 2)):
        folder = tmp_path / project / "configs"
        folder.mkdir(parents=True)
        (folder / "quickstart.py").write_text(CONFIG.format(seed=seed))
        (folder / f"only_{project}.py").write_text(CONFIG.format(seed=seed))
        if is_package:
            (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path / "path")
    for name, seed in (("quickstart", 1), ("only_beside", 1), ("only_path", 2)):
        file = tmp_path / "beside/configs/mine.py"
        file.write_text(IMPORTING.format(name=name))
        assert load_config(str(file)).seed == seed
    elsewhere = tmp_path / "mine.py"
    elsewhere.write_text(IMPORTING.format(name="quickstart"))
    assert load_config(str(elsewhere)).to_json() == load_config("quickstart").to_json()
    elsewhere.write_text(IMPORTING.format(name="only_path"))
    assert load_config(str(elsewhere)).seed == 2


BROKEN = {
    "syntax": ("def get_config(:\n", "line 1\n    def get_config(:", "SyntaxError"),
    "name": (
        "\ndef get_config():\n    return lr\n",
        "line 3, in get_config",
        "NameError: name 'lr'",
    ),
    "module": ("import no_such_module\n", "line 1, in <module>", "No module named"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("relative", [False, True])
def test_an_error_in_a_config_file_is_shown_from_the_file_on(tmp_path, monkeypatch, kind, relative):
    text, place, error = BROKEN[kind]
    path = tmp_path / "broken.py"
    path.write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        load_config("broken.py" if relative else str(path))
    message = str(caught.value)
    assert place in message and error in message
    assert "runpy" not in message and "command_line" not in message


@pytest.mark.parametrize("text", ["", "def get_config():\n    pass\n"])
def test_a_config_file_without_a_config_is_an_error(tmp_path, text):
    path = tmp_path / "empty.py"
    path.write_text(text)
    with pytest.raises(UsageError, match="needs a get_config\\(\\) that returns a ConfigDict"):
        load_config(str(path))


def test_what_follows_a_colon_is_given_to_get_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    body = "def get_config(seed='1'):\n    return ConfigDict(dict(seed=int(seed)))\n"
    for name in ("mine.py", "with:colon.py"):
        (tmp_path / name).write_text(f"from ml_collections import ConfigDict\n\n\n{body}")
    assert load_config("mine.py").seed == load_config("with:colon.py").seed == 1
    assert load_config("mine.py:7").seed == load_config(f"{tmp_path}/mine.py:7").seed == 7
    assert load_config("with:colon.py:8").seed == 8
    assert find_config("quickstart:7") == find_config("quickstart")
    with pytest.raises(UsageError, match="config 'quickstart' takes no argument, got '7'"):
        load_config("quickstart:7")
    with pytest.raises(UsageError, match="no shipped config is called 'quikstart'; did you mean"):
        load_config("quikstart:7")
