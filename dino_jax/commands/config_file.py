"""Finds config files by name or path and runs them; they can import the shipped ones anywhere."""

import ast
import importlib
import importlib.util
import inspect
import runpy
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from dino_jax.commands.command_line import UsageError
from dino_jax.config.section import suggest

CONFIGS = "configs"  # the name under which config files import each other


def shipped_folder() -> Path:
    """Folder of the shipped configs: inside the installed package, else beside it in the clone."""
    package = Path(__file__).parent.parent
    installed = package / CONFIGS
    return installed if installed.is_dir() else package.parent / CONFIGS


def shipped_configs() -> dict[str, Path]:
    """The shipped configs by name."""
    return {path.stem: path for path in sorted(shipped_folder().glob("*.py"))}


def describe_shipped() -> str:
    """One line for each shipped config: its name and description."""
    files = shipped_configs()
    width = max(map(len, files), default=0)
    about = {
        name: (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
        for name, path in files.items()
    }
    return "\n".join(f"{name:{width}}  {line}" for name, line in about.items())


def split_argument(name_or_path: str) -> tuple[str, str | None]:
    """The name or path of a config, and what follows a colon: small_data:64 -> small_data, 64.

    The argument is what `get_config` is called with; None without a colon. A file whose name has
    the colon is meant as it is.
    """
    name, colon, argument = name_or_path.rpartition(":")
    if not colon or "/" in argument or Path(name_or_path).expanduser().is_file():
        return name_or_path, None
    return name, argument


def find_config(name_or_path: str) -> Path:
    """The file of a config.

    Args:
      name_or_path: a path ends in .py or has a folder; anything else names a shipped config. Both
        may have an argument, see `split_argument`.

    Raises:
      UsageError: if there is no such file or no such name.
    """
    name_or_path, _ = split_argument(name_or_path)
    shipped, path = shipped_configs(), Path(name_or_path).expanduser()
    if path.suffix != ".py" and path.name == name_or_path:
        if name_or_path not in shipped:
            raise UsageError(
                f"no shipped config is called {name_or_path!r}; {suggest(name_or_path, shipped)}; "
                "the path of a file ends in .py"
            )
        return shipped[name_or_path]
    if not path.is_file():
        hint = f"; the shipped one is --config={path.stem}" if path.stem in shipped else ""
        raise UsageError(
            f"config file {name_or_path!r} does not exist (current folder: {Path.cwd()}){hint}"
        )
    return path


def load_config(name_or_path: str) -> ConfigDict:
    """Runs `get_config` of a config file, which can import shipped configs and modules beside it.

    Args:
      name_or_path: as `find_config` takes it.

    Raises:
      UsageError: if there is no such file, it returns no config, takes no argument, or raises; then
        with the traceback from the file on.
    """
    path = str(find_config(name_or_path))
    folder = str(Path(path).resolve().parent)
    if folder not in (
        *sys.path,
        str(shipped_folder()),
    ):  # and it stays: input workers import modules beside the file, too
        sys.path.append(folder)
    try:
        with _importable_configs(Path(path)):
            get_config = runpy.run_path(path).get("get_config")
            arguments = _arguments_for(get_config, name_or_path)
            config = get_config(*arguments) if get_config else None
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"config file {path!r} raises an error:\n{_format_from(path, error)}"
        ) from error
    if not isinstance(config, ConfigDict):
        raise UsageError(f"config file {path!r} needs a get_config() that returns a ConfigDict")
    return config


def _arguments_for(get_config: Callable[..., Any] | None, name_or_path: str) -> list[str]:
    """What `get_config` is called with.

    Raises:
      UsageError: if it takes no argument and there is one.
    """
    name, argument = split_argument(name_or_path)
    if argument is None:
        return []
    if get_config is not None and not inspect.signature(get_config).parameters:
        raise UsageError(f"config {name!r} takes no argument, got {argument!r} after the colon")
    return [argument]


@contextmanager
def _importable_configs(file: Path) -> Iterator[None]:
    """`from configs import NAME` finds shipped configs while a file runs, and none afterwards.

    Files beside it come first if its own folder is called configs, then the shipped ones, then a
    package `configs` on Python's path.
    """
    folder = file.resolve().parent
    before = _forget_configs()
    try:
        found = importlib.util.find_spec(CONFIGS)
        configs = importlib.import_module(CONFIGS) if found else ModuleType(CONFIGS)
        beside = [str(folder)] if folder.name == CONFIGS else []
        configs.__path__ = [*beside, str(shipped_folder()), *getattr(configs, "__path__", ())]
        sys.modules[CONFIGS] = configs
        yield
    finally:
        _forget_configs()
        sys.modules.update(before)


def _forget_configs() -> dict[str, ModuleType]:
    """Takes the package `configs` out of the imported modules."""
    names = [name for name in sys.modules if name.partition(".")[0] == CONFIGS]
    return {name: sys.modules.pop(name) for name in names}


def _format_from(path: str, error: Exception) -> str:
    """The traceback without the frames above those of file `path`."""
    report = traceback.TracebackException.from_exception(error)
    inside = [index for index, frame in enumerate(report.stack) if frame.filename == path]
    report.stack = traceback.StackSummary.from_list(report.stack[inside[0] :] if inside else [])
    return "".join(report.format(chain=False)).rstrip()
