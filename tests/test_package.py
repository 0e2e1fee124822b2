"""The wheel: what it carries, what it needs, and that it works away from the clone."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import dino_jax

ROOT = Path(__file__).parent.parent
# What is imported without being asked for, and the package that brings it.
BROUGHT_BY = {
    "fsspec": "etils",
    "packaging": "tensorboardX",
    "scipy": "jax",
    "yaml": "ml-collections",
}
# Modules whose package has another name.
PACKAGES = {
    "PIL": "pillow",
    "absl": "absl-py",
    "faiss": "faiss-cpu",
    "libtpu": "jax",  # jax[tpu]
    "mlflow": "mlflow-skinny",
    "orbax": "orbax-checkpoint",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


def spell(name: str) -> str:
    """The normal form of the name of a package."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this tree, made without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        tree.mkdir(exist_ok=True)
        (tree / name).write_bytes((ROOT / name).read_bytes())
    for name in ("dino_jax", "configs"):
        (tree / name).symlink_to(ROOT / name)
    code = "from setuptools import build_meta; build_meta.build_wheel('..')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder for PYTHONPATH that holds nothing but what the wheel holds."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(installed, folder, *arguments):
    """Runs `dino-jax` as it is in the wheel, in another folder."""
    code = "import sys; from dino_jax.__main__ import main; sys.exit(main())"
    environment = os.environ | {
        "PYTHONPATH": str(installed),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "PYTHONSAFEPATH": "",
    }
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_wheel_carries_configs_pages_digits_and_types(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"dino_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")} <= names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "dino_jax").rglob("*.py")}
    others = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "dino_jax").rglob("*")
        if path.suffix in (".css", ".js", ".npz", ".typed")
    }
    assert "dino_jax/py.typed" in others and "dino_jax/report/page.css" in others
    assert modules | others <= names
    top = {name.split("/")[0] for name in names}
    assert top == {"dino_jax", f"dino_jax-{dino_jax.__version__}.dist-info"}


def test_the_wheel_has_the_command_and_says_what_it_is(wheel):
    with zipfile.ZipFile(wheel) as archive:
        info = f"dino_jax-{dino_jax.__version__}.dist-info"
        metadata = archive.read(f"{info}/METADATA").decode()
        scripts = archive.read(f"{info}/entry_points.txt").decode()
        assert any(name.startswith(info) and "LICENSE" in name for name in archive.namelist())
    assert "dino-jax = dino_jax.__main__:main" in scripts
    for line in (f"Version: {dino_jax.__version__}", "Requires-Python: >=3.11", "Typing :: Typed"):
        assert line in metadata
    assert (ROOT / "README.md").read_text().splitlines()[0] in metadata


def test_every_import_is_asked_for(wheel):
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"dino_jax-{dino_jax.__version__}.dist-info/METADATA").decode()
        sources = {
            name: archive.read(name).decode()
            for name in archive.namelist()
            if name.endswith(".py") and "/configs/" not in name
        }
    asked = {spell(name) for name in re.findall(r"Requires-Dist: ([\w.-]+)", metadata)}
    always = {
        spell(name) for name in re.findall(r"Requires-Dist: ([\w.-]+)(?!.*extra ==)", metadata)
    }
    for name, source in sources.items():
        for at_top, module in imported(ast.parse(source)):
            package = spell(PACKAGES.get(module, module))
            if module in BROUGHT_BY:
                assert not at_top, f"{name} imports {module} at the top"
                requires = importlib.metadata.requires(BROUGHT_BY[module]) or []
                assert package in {spell(re.split(r"[^\w.-]", one)[0]) for one in requires}
            elif module not in sys.stdlib_module_names and module != "dino_jax":
                assert package in (always if at_top and "beam" not in name else asked), name


def imported(tree: ast.Module):
    """(whether at the top, package) of every import of a module."""
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            yield id(node) in top, name.partition(".")[0]


def test_the_wheel_finds_its_configs_by_name_in_any_folder(installed, tmp_path):
    out = tmp_path / "sheet.png"
    shown = run(installed, tmp_path, "show", "--config=quickstart", f"--out={out}", "--images=1")
    assert shown.returncode == 0, shown.stderr
    assert out.exists()


def test_a_file_of_ones_own_starts_from_a_shipped_config(installed, tmp_path):
    only_here = installed / "dino_jax/configs/only_here.py"
    only_here.write_text("from configs.quickstart import get_config\n")
    (tmp_path / "mine.py").write_text(
        "from configs import only_here\n\n\ndef get_config():\n"
        "    config = only_here.get_config()\n    config.data.kind = 'tape'\n    return config\n"
    )
    shown = run(installed, tmp_path, "show", "--config=mine.py", "--out=sheet.png")
    assert shown.returncode == 2
    assert "'tape'" in shown.stderr and shown.stderr.count("\n") == 1


def test_a_converted_config_works_away_from_the_clone(installed, tmp_path):
    (tmp_path / "official.yaml").write_text("train: {batch_size_per_gpu: 64}\n")
    done = run(installed, tmp_path, "convert", "official.yaml", "--gpus=2", "--out=converted.py")
    assert done.returncode == 0, done.stderr
    shown = run(installed, tmp_path, "show", "--config=converted.py", "--out=sheet.png")
    assert shown.returncode == 2 and "raises an error" not in shown.stderr
    assert "path" in shown.stderr and shown.stderr.count("\n") == 1
