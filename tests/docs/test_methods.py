"""docs/methods: every equation has lines of the source and a test, and all of them exist."""

import ast
import functools
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(path for path in (ROOT / "docs/methods").glob("*.md") if path.stem != "index")
FIELDS = ("Source", "Shapes", "Lines", "Test")
METHODS = {"byol", "dino", "dinov2", "dinov3", "mae", "mocov3", "simclr", "simdino"}

# [`path::name`](../../path)
LINK = re.compile(r"\[`([\w/]+\.py)::([\w.]+)`\]\(([^)]+)\)")
INCLUDE = re.compile(r"^```\{literalinclude\} (\S+)\n:pyobject: (\S+)\n```$", re.M)
RECORDING = re.compile(r"`(tests/golden/[\w/.]+)`")


class Equation(NamedTuple):
    """One equation of a page.

    Attributes:
      number: what stands in its heading.
      fields: text by the name that stands before it in bold.
      included: (path from the page, name) of the lines.
    """

    number: int
    fields: dict[str, str]
    included: list[tuple[str, str]]


def read_equations(text: str) -> list[Equation]:
    """The equations of a page, in order; an error where one has no number or lacks a field."""
    equations = []
    for part in text.split("\n## ")[1:]:
        number = re.match(r"\((\d+)\) ", part)
        heading = part.partition("\n")[0]
        assert number and part.count("\n```math\n") == 1, f"{heading!r}: one equation, numbered"
        found = re.split(r"^\*\*(\w+)\.\*\* ", part, flags=re.M)[1:]
        fields = dict(zip(found[::2], found[1::2], strict=True))
        missing = [name for name in FIELDS if not fields.get(name, "").strip()]
        assert not missing, f"{heading!r} has no {missing}"
        equations.append(Equation(int(number[1]), fields, INCLUDE.findall(part)))
    return equations


@functools.cache
def names_in(path: Path) -> frozenset[str]:
    """Functions, classes and methods of a file."""

    def walk(nodes, prefix=""):
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield prefix + node.name
                if isinstance(node, ast.ClassDef):
                    yield from walk(node.body, f"{prefix}{node.name}.")

    return frozenset(walk(ast.parse(path.read_text()).body))


def find_faults(page: Path, text: str) -> list[str]:
    """What is wrong with a page, one line each."""
    faults = []
    equations = read_equations(text)
    if [equation.number for equation in equations] != list(range(1, len(equations) + 1)):
        faults.append("equations are not numbered from 1 on")
    for equation in equations:
        here = f"({equation.number})"
        lines, tests = (LINK.findall(equation.fields[name]) for name in ("Lines", "Test"))
        if not re.search(r"arXiv:\d{4}\.\d{5}|official code", equation.fields["Source"]):
            faults.append(f"{here} names no paper")
        if not lines or not tests:
            faults.append(f"{here} has {len(lines)} lines and {len(tests)} tests")
        for path, name, target in lines + tests:
            if (page.parent / target).resolve() != ROOT / path:
                faults.append(f"{here} links {path} to {target}")
            if not (ROOT / path).is_file() or name not in names_in(ROOT / path):
                faults.append(f"{here} names {name}, which is not in {path}")
        if [(target, name) for _, name, target in lines] != equation.included:
            faults.append(f"{here} includes {equation.included}, not the lines that it names")
        faults += [f"{here} {path} is not of the package" for path, _, _ in lines
                   if not path.startswith("dino_jax/")]  # fmt: skip
        faults += [f"{here} {name} of {path} is not a test" for path, name, _ in tests
                   if not path.startswith("tests/") or not name.startswith("test_")]  # fmt: skip
        faults += [f"{here} {fault}" for fault in find_unread(equation.fields["Test"])]
    return faults


def find_unread(text: str) -> list[str]:
    """Recordings that do not exist, or that the test named before them does not read."""
    faults = []
    for part in re.split(r";\n", text):
        for recording in RECORDING.findall(part):
            tests = [(ROOT / path).read_text() for path, _, _ in LINK.findall(part)]
            if not (ROOT / recording).exists():
                faults.append(f"{recording} does not exist")
            elif not any(Path(recording).name.partition(".")[0] in test for test in tests):
                faults.append(f"{recording} is not read by its test")
    return faults


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_equation_has_lines_and_a_test_that_exist(page):
    text = page.read_text()
    assert len(read_equations(text)) == text.count("```math") >= 5
    faults = find_faults(page, text)
    assert not faults, "\n".join(faults)


def test_every_method_has_a_page():
    assert {page.stem for page in PAGES} == METHODS


PAGE = ROOT / "docs/methods/dino.md"


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (
            "centering.py::center_and_sharpen",
            "centering.py::sharpen",
            "(1) names sharpen, which is not in",
        ),
        (":pyobject: dino_losses", ":pyobject: dino_loss", "(2) includes"),
        ("/test_dino.py::test_loss_is", "/test_dino.py::test_loss_was", "test_loss_was"),
        ("dino_loss_mc10.npz", "dino_loss_mc11.npz", "mc11.npz does not exist"),
        ("v1/dino_loss_mc10.npz", "v1/pos_interp.npz", "is not read by its test"),
        ("arXiv:2104.14294, Eq. 4", "Eq. 4", "(3) names no paper"),
        ("## (3)", "## (4)", "not numbered"),
    ],
)
def test_what_is_wrong_is_found(old, new, fault):
    text = PAGE.read_text()
    assert old in text
    assert any(fault in line for line in find_faults(PAGE, text.replace(old, new)))


@pytest.mark.parametrize("field", FIELDS)
def test_an_equation_without_a_field_is_an_error(field):
    with pytest.raises(AssertionError, match=rf"\(1\) .* has no \['{field}'\]"):
        read_equations(PAGE.read_text().replace(f"**{field}.**", "", 1))
