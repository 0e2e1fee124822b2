"""What a process is about to do, for the roll call: all processes of a command must do the same.

Two processes that differ in any of this would work together without a word, to numbers that belong
to no command line, or wait for each other for ever.
"""

import hashlib
import os
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from etils import epath

import dino_jax
from dino_jax.commands.config_file import find_config, shipped_folder
from dino_jax.workdir.paths import absolute_path

PACKAGES = (
    *("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint"),
    *("numpy", "grain", "pillow", "array-record"),
)
# Settings of jax that say where things go or what is logged, not what is computed.
OF_A_PROCESS = (
    *("address", "cache", "color", "dump", "log", "profile", "timeout", "trac", "transfer_size"),
    *("visible_devices",),
)
VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")
OUTPUT_FLAGS = ("--xla_dump", "--tpu_log", "--xla_tpu_log")  # XLA_FLAGS that write files


def facts_of(
    options: Mapping[str, Any], folder: epath.PathLike = "", code: Iterable[Path] = ()
) -> dict[str, Any]:
    """Versions, options, folder, code and settings of this process, by name.

    Args:
      options: options by name, less those that belong to a process.
      folder: folder that is written, if any.
      code: files of a user that are part of the program, besides this package.
    """
    facts: dict[str, Any] = {"dino_jax": dino_jax.__version__, "Python": sys.version.split()[0]}
    facts |= {package: version for package in PACKAGES if (version := _version(package))}
    facts |= options
    if folder:
        facts["folder"] = os.fspath(absolute_path(folder))
    facts["code of dino_jax"] = _digest(Path(dino_jax.__file__).parent.rglob("*.py"))
    facts |= {f"code of {file.name}": _digest([file]) for file in code}
    return facts | _settings()


def code_of(config_file: str) -> list[Path]:
    """A user's config file, and the modules beside it that it has imported; [] for a shipped one.

    Args:
      config_file: name or path of the file.
    """
    file = find_config(config_file).resolve()
    if file.parent == shipped_folder().resolve():
        return []
    modules = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    beside = {Path(source).resolve() for source in modules if source}
    return [file, *sorted(path for path in beside - {file} if path.parent == file.parent)]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.blake2b(digest_size=6)
    for file in sorted(files):
        digest.update(f"{file.name}\0".encode(errors="surrogateescape") + file.read_bytes())
    return digest.hexdigest()


def _settings() -> dict[str, str]:
    """What jax and XLA were told in the environment."""
    settings = {
        name: str(value)
        for name, value in sorted(jax.config.values.items())
        if not any(word in name for word in OF_A_PROCESS)
    }
    for name in VARIABLES:
        given = os.environ.get(name, "").split()
        settings[name] = " ".join(sorted(x for x in given if not x.startswith(OUTPUT_FLAGS)))
    return settings
