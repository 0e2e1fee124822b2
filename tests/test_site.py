"""The pages: no dead link, and no option, argument or public name without a meaning.

`python -m sphinx -W …` of `.ci/run` builds them; here is what a builder does not see.
"""

import ast
import functools
import importlib
import inspect
import re
from pathlib import Path

import pytest

import dino_jax
from dino_jax.__main__ import COMMANDS
from dino_jax.config.section import options
from docs.generators import commands
from docs.generators.links import rewrite
from docs.generators.markdown import cell, code
from docs.generators.options import option_pages, rows, sections

ROOT = Path(__file__).parents[1]
FOLDERS = (".", "launch", "docs", "docs/explain", "docs/methods", "docs/notebooks")
PAGES = sorted(
    path.relative_to(ROOT).as_posix() for name in FOLDERS for path in (ROOT / name).glob("*.md")
)
GENERATED = {"docs/generated/options/index.md", "docs/generated/commands/index.md"}
CODE = re.compile(r"^ *(```|:::)[^\n]*\n.*?^ *\1", re.DOTALL | re.MULTILINE)


@functools.cache
def anchors(page: str) -> set[str]:
    """Of the headings of a page, as GitHub and the site make them."""
    text = CODE.sub("", (ROOT / page).read_text())
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    titles = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title) for title in titles]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def dead_links(page: str) -> list[str]:
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", (ROOT / page).read_text())):
        if ":" in target or target in ("#",):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        name = file.resolve().relative_to(ROOT).as_posix()
        if name in GENERATED:
            continue
        if not file.exists() or (anchor and anchor not in anchors(name)):
            found.append(target)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_no_link_is_dead(page):
    assert dead_links(page) == []


def test_a_dead_link_would_be_found(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    text = "# A title\n[a](#a-title) [b](gone.md) [c](page.md#gone) [d](https://x.y)\n"
    (tmp_path / "page.md").write_text(text)
    assert dead_links("page.md") == ["gone.md", "page.md#gone"]


def test_links_lead_to_the_same_page_from_another_place():
    text = "[a](docs/plan.md#x) [b](https://x.y) [c](#d) ![e](docs/e.png) [f](LICENSE)"
    moved = rewrite(text, "CHANGELOG.md", "docs/generated/changelog.md")
    assert moved == "[a](../plan.md#x) [b](https://x.y) [c](#d) ![e](../e.png) [f](../../LICENSE)"
    moved = rewrite("[a](../CONTRIBUTING.md#b)", "docs/plan.md", "docs/plan.md")
    assert moved == "[a](generated/contributing.md#b)"


def test_every_option_has_a_meaning_and_is_on_a_page():
    pages = option_pages()
    found = list(sections())
    assert len({section.config for section in found}) > 40
    for section in found:
        for name, (_, about) in options(section.config).items():
            assert about.meaning, f"{section.place}.{name} has no meaning"
        top = section.place.split(".")[1] if "." in section.place else "index"
        for row in rows(section):
            assert f"| `{row.name}` |" in pages[top], f"{section.place}.{row.name}"


def test_a_default_is_that_of_its_place():
    page = option_pages()["optimizer"]
    (line,) = (line for line in page.splitlines() if line.startswith("| `lr` |"))
    assert "| number |" in line and "| `0.0005` |" in line


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_has_a_meaning_and_is_on_the_page_of_its_command(name):
    page = commands.command_pages()[name]
    waiting = [(name, commands.parser_of(name))]
    while waiting:
        words, parser = waiting.pop()
        for action in commands.arguments_of(parser):
            said = commands.meaning(parser, action)
            assert said or action.choices, f"{words} {commands.spelling(action)} has no help"
            assert f"| {cell(code(commands.spelling(action)))} |" in page
        waiting += [(f"{words} {word}", x) for word, x in commands.subcommands(parser).items()]


def public_names() -> set[str]:
    """What the pages import from the package, and what the package itself offers."""
    found = {f"dino_jax.{name}" for name in dino_jax.__all__}
    for page in PAGES:
        for code_block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
            for node in ast.walk(ast.parse(code_block)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dino_jax"):
                    found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_public_name_is_on_the_page_of_the_api():
    page = (ROOT / "docs/reference/api.md").read_text()
    documented = set(re.findall(r"^\.\. [\w:]+:: (\S+)$", page, re.MULTILINE))
    for name in sorted(public_names()):
        module, _, own = name.rpartition(".")
        assert name in documented or module in documented, f"{name} is not on docs/reference/api.md"
        thing = getattr(importlib.import_module(module), own)
        if inspect.isfunction(thing) or inspect.isclass(thing):
            assert inspect.getdoc(thing), f"{name} has no docstring"


def test_every_name_of_the_api_exists_and_says_what_it_is():
    page = (ROOT / "docs/reference/api.md").read_text()
    for kind, name in re.findall(r"^\.\. auto(\w+):: (\S+)$", page, re.MULTILINE):
        module, _, own = name.rpartition(".")
        thing = (
            importlib.import_module(name)
            if kind == "module"
            else getattr(importlib.import_module(module), own)
        )
        assert inspect.getdoc(thing), f"{name} has no docstring"


def test_every_page_is_in_the_table_of_contents():
    named = (ROOT / "docs/index.md").read_text().splitlines()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.stem in {*named, "index"}, f"add {page.stem} to a toctree of docs/index.md"
