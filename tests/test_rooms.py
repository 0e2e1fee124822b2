"""The rooms of dino_jax: packages on floors, and imports that only go down.

Whoever adds a room gives it a floor here and a line in the Layout of CONTRIBUTING.md. An import
that this test refuses asks for something to be moved down, or to be handed in as an argument.
"""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dino_jax"

# From the bottom to the top. A room imports rooms of lower floors only, none of its own floor, so
# that no two rooms can form a circle.
FLOORS = (
    {"foreign"},
    {"config", "devices", "processes", "workdir"},
    {"commands", "optim"},
    {"data", "models", "objectives"},
    {"step"},
    {"weights"},
    {"embedding", "evaluation", "report"},
    {"visualize"},
    {"run", "search"},
    {"curation", "doctor", "plan", "tuning"},
    {"train"},
    {"__main__"},
)
# Rooms that know even less than their floor allows: names of what they may import.
KNOWN = {
    "foreign": (),
    "config": (),
    "processes": (),
    "workdir": ("config", "foreign"),
    "devices": (),
    "optim": ("config",),
    "data": ("commands", "config", "devices.host_memory", "foreign", "workdir"),
    "models": ("config", "devices.kernels"),  # no mesh
    "objectives": ("config", "optim"),
    "report": ("commands", "config.upgrade", "foreign", "workdir"),
}
LOOSE = {"__init__", "__main__", "train"}  # files beside the rooms
# What starts without jax: `dino-jax --help`, input workers, reports. Imports in functions may.
WITHOUT_JAX = (
    "__init__",
    "__main__",
    "commands.arguments",
    "commands.command_line",
    "commands.config_command",
    "commands.config_file",
    "commands.console",
    "commands.progress",
    "commands.signals",
    "config",
    "curation.__main__",
    "data",
    "embedding.__main__",
    "doctor.__main__",
    "evaluation.__main__",
    "evaluation.options",
    "foreign",
    "plan.__main__",
    "report",
    "run.arguments",
    "run.show_config",
    "run.show_crops",
    "search.__main__",
    "search.compact",
    "search.engine",
    "search.index",
    "search.remove",
    "train",
    "tuning.__main__",
    "tuning.improving.__main__",
    "visualize.__main__",
    "weights.export_weights",
    "weights.import_weights",
    "workdir.paths",
)
JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}

Modules = dict[str, ast.Module]  # by dotted name below the package; a package is its __init__


def read_modules(package: Path) -> Modules:
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        name = ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(), filename=str(path))
    return found


def imports_of(tree: ast.AST, deep: bool = True) -> set[str]:
    """Full names of what a file imports, but not under TYPE_CHECKING.

    Args:
      tree: of the file.
      deep: whether imports inside functions count.
    """
    names: set[str] = set()
    if isinstance(tree, ast.Import):
        return {alias.name for alias in tree.names}
    if isinstance(tree, ast.ImportFrom):
        assert tree.level == 0, f"line {tree.lineno}: a relative import"
        return {f"{tree.module}.{alias.name}" for alias in tree.names}
    if isinstance(tree, ast.If) and "TYPE_CHECKING" in ast.dump(tree.test):
        return set().union(*(imports_of(node, deep) for node in tree.orelse))
    if isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef) and not deep:
        return names
    for node in ast.iter_child_nodes(tree):
        names |= imports_of(node, deep)
    return names


def inside(name: str) -> str:
    """dino_jax.data.decode.decode_image -> data.decode.decode_image; "" for other packages."""
    top, _, rest = name.partition(".")
    return rest if top == "dino_jax" else ""


def find_arrows(modules: Modules) -> set[tuple[str, str, str]]:
    """(room, room that it imports, the file that does and what) over the whole package."""
    rooms = {name.partition(".")[0] for name in modules}
    arrows = set()
    for name, tree in modules.items():
        room = name.partition(".")[0]
        for imported in map(inside, imports_of(tree)):
            other = imported.partition(".")[0]
            if other in rooms and other != room:
                arrows.add((room, other, f"{name} imports {imported}"))
    return arrows


def find_climbs(modules: Modules) -> list[str]:
    """Imports that do not go down. The package's __init__ is on no floor: it only offers `load`."""
    height = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
    return sorted(
        what
        for room, other, what in find_arrows(modules)
        if room != "__init__" and height[other] >= height[room]
    )


def find_strangers(modules: Modules) -> list[str]:
    """Imports of a room that it is not to know."""
    return sorted(
        what
        for room, _, what in find_arrows(modules)
        if room in KNOWN and not _is_known(what.rpartition(" ")[2], KNOWN[room])
    )


def _is_known(imported: str, known: tuple[str, ...]) -> bool:
    return any(f"{imported}.".startswith(f"{name}.") for name in known)


def find_jax(modules: Modules, starts: tuple[str, ...]) -> list[str]:
    """Chains of imports from modules that start without jax to jax."""
    waiting = [(name, name) for name in modules if name.startswith(tuple(starts))]
    seen, found = set(), []
    while waiting:
        name, chain = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for imported in imports_of(modules[name], deep=False):
            if imported.partition(".")[0] in JAX:
                found.append(f"{chain} > {imported}")
            parts = inside(imported).split(".")
            for end in range(1, len(parts) + 1):  # a module comes with the packages around it
                module = ".".join(parts[:end])
                if module in modules:
                    waiting.append((module, f"{chain} > {module}"))
    return sorted(found)


def test_every_room_has_one_floor():
    rooms = {name.partition(".")[0] for name in read_modules(PACKAGE)} - {"__init__"}
    placed = [room for floor in FLOORS for room in floor]
    assert sorted(placed) == sorted(rooms)


def test_imports_only_go_down():
    climbs = find_climbs(read_modules(PACKAGE))
    assert not climbs, "not down:\n" + "\n".join(climbs)


def test_some_rooms_know_even_less():
    strangers = find_strangers(read_modules(PACKAGE))
    assert not strangers, "not to be known there:\n" + "\n".join(strangers)


def test_only_the_command_of_a_training_lies_beside_the_rooms():
    assert {path.stem for path in PACKAGE.glob("*.py")} == LOOSE


def test_input_workers_and_reports_start_without_jax():
    chains = find_jax(read_modules(PACKAGE), WITHOUT_JAX)
    assert not chains, "\n".join(chains)


def test_the_layout_has_a_line_for_every_room():
    layout = (
        (PACKAGE.parent / "CONTRIBUTING.md").read_text().split("\n## Layout\n")[1].split("\n## ")[0]
    )
    named = {line.split("/")[0].strip() for line in layout.splitlines() if line.startswith("  ")}
    assert {room for floor in FLOORS for room in floor} - LOOSE <= named


@pytest.fixture
def house(tmp_path):
    """A small package in order, to be spoiled."""
    files = {
        "__init__.py": "def load():\n    from dino_jax.weights.model import load\n",
        "train.py": "from dino_jax.run import journal\n",
        "workdir/__init__.py": "",
        "workdir/paths.py": "def find():\n    import jax\n",
        "data/__init__.py": "from dino_jax.workdir.paths import find\n",
        "data/decode.py": "import numpy as np\n",
        "weights/model.py": "import jax\nfrom dino_jax.data.decode import decode\n",
        "run/journal.py": "from dino_jax.data import decode\nimport dino_jax.workdir.paths\n",
    }
    for name, text in files.items():
        path = tmp_path / "dino_jax" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "dino_jax"


def test_a_package_in_order_passes(house):
    modules = read_modules(house)
    assert find_climbs(modules) == []
    assert find_jax(modules, WITHOUT_JAX) == []
    assert ("train", "run", "train imports run.journal") in find_arrows(modules)


@pytest.mark.parametrize(
    ("file", "line", "found"),
    [
        ("data/decode.py", "from dino_jax.run.x import y", ["data.decode imports run.x.y"]),
        ("data/decode.py", "def f():\n    import dino_jax.run", ["data.decode imports run"]),
        ("data/decode.py", "if a:\n    from dino_jax import run", ["data.decode imports run"]),
        ("data/__init__.py", "from dino_jax import train", ["data imports train"]),
        ("weights/model.py", "if TYPE_CHECKING:\n    from dino_jax.run import journal", []),
        ("run/journal.py", "from dino_jax.run import guard", []),
        ("run/journal.py", "from dino_jax import load", []),
    ],
)
def test_an_import_that_goes_up_is_found(house, file, line, found):
    with (house / file).open("a") as opened:
        opened.write(line + "\n")
    assert find_climbs(read_modules(house)) == found


def test_what_a_room_is_not_to_know_is_found(house):
    (house / "models").mkdir()
    text = "from dino_jax.devices.kernels.tiles import x\nfrom dino_jax.devices import sharding\n"
    (house / "models/vit.py").write_text(text)
    (house / "devices/kernels").mkdir(parents=True)
    (house / "devices/kernels/tiles.py").touch()
    found = find_strangers(read_modules(house))
    assert found == ["models.vit imports devices.sharding"]


def test_rooms_of_one_floor_that_import_each_other_are_found(house):
    (house / "devices").mkdir()
    (house / "devices/mesh.py").write_text("from dino_jax.workdir import paths\n")
    assert find_climbs(read_modules(house)) == ["devices.mesh imports workdir.paths"]


@pytest.mark.parametrize(
    ("file", "line", "chains"),
    [
        ("data/decode.py", "import jax.numpy as jnp", ["data.decode > jax.numpy"]),
        ("data/decode.py", "def f():\n    import jax", []),
        ("workdir/paths.py", "from flax import linen", ["data > workdir.paths > flax.linen"]),
        ("workdir/__init__.py", "import orbax", ["data > workdir > orbax"]),
    ],
)
def test_jax_is_found_behind_other_modules(house, file, line, chains):
    with (house / file).open("a") as opened:
        opened.write(line + "\n")
    assert find_jax(read_modules(house), ("data",)) == chains
