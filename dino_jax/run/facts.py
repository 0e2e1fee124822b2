"""What a process is about to do, for the roll call: all processes of a run must do the same.

Two processes that differ in any of this would train together without a word, and to numbers that
belong to no config, or wait for each other for ever.
"""

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from etils import epath

import dino_jax
from dino_jax.commands.config_file import find_config, shipped_folder
from dino_jax.run.runtime import PER_PROCESS
from dino_jax.workdir.config_json import config_to_json
from dino_jax.workdir.dotted_names import flatten
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


def facts_of(config: Any, config_file: str, workdir: epath.PathLike) -> dict[str, Any]:
    """Versions, code, config, workdir and settings of this process, by name.

    Args:
      config: config of the run.
      config_file: its name or path, as on the command line.
      workdir: workdir of the run.
    """
    facts = {"dino_jax": dino_jax.__version__, "Python": sys.version.split()[0]}
    facts |= {package: version for package in PACKAGES if (version := _version(package))}
    facts |= config_facts(config)
    facts["--workdir"] = os.fspath(absolute_path(workdir))
    facts |= {f"code of {name}": _digest(files) for name, files in _code(config_file).items()}
    return facts | _settings()


def config_facts(config: Any) -> dict[str, Any]:
    """The values of a config by dotted name, less those that belong to a process."""
    plain = json.loads(config_to_json(dataclasses.asdict(config)))
    for name in PER_PROCESS:
        del plain["runtime"][name]
    return flatten(plain, "config")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _code(config_file: str) -> dict[str, Iterable[Path]]:
    """The files of this package, and of a user's config file with the modules beside it."""
    package = Path(dino_jax.__file__).parent
    code: dict[str, Iterable[Path]] = {"dino_jax": package.rglob("*.py")}
    file = find_config(config_file).resolve()
    if file.parent == shipped_folder().resolve():
        return code
    code[file.name] = [file]
    for name, module in list(sys.modules.items()):
        source = getattr(module, "__file__", None)
        if source and not name.startswith("__") and Path(source).resolve().parent == file.parent:
            code[name] = [Path(source)]
    return code


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
