"""Modules of version 0.1 under their old names: imports and `python -m` lines keep working."""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any

# Old name -> new name, of a module or of a package with everything in it.
MOVED = {
    "dino_jax.checkpointing": "dino_jax.workdir.checkpointing",
    "dino_jax.config_from_yaml": "dino_jax.commands.config_from_yaml",
    "dino_jax.data.build": "dino_jax.data.building.build",
    "dino_jax.data.build_beam": "dino_jax.data.building.build_beam",
    "dino_jax.data.show": "dino_jax.run.show_crops",
    "dino_jax.embed": "dino_jax.embedding.__main__",
    "dino_jax.evaluate": "dino_jax.evaluation.__main__",
    "dino_jax.kernels": "dino_jax.devices.kernels",
    "dino_jax.pretrained": "dino_jax.weights",
}


class OldNames:
    """Finds modules by the names that they had: an entry of `sys.meta_path`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        new = _new_name(fullname)
        if not new:
            return None
        loader: Any = _MovedModule(new)
        return ModuleSpec(fullname, loader)


class _MovedModule:
    """Makes a module available under its old name, too; it is one module, not a copy."""

    def __init__(self, name: str):
        self._name = name

    def create_module(self, spec: ModuleSpec) -> None:
        """Lets Python make a module, which `exec_module` replaces."""

    def exec_module(self, module: ModuleType) -> None:
        warnings.warn(
            f"{module.__name__} is now {self._name}", category=DeprecationWarning, stacklevel=2
        )
        sys.modules[module.__name__] = importlib.import_module(self._name)

    def get_code(self, fullname: str) -> CodeType | None:
        """Supports python -m, which runs the code again."""
        spec = importlib.util.find_spec(self._name)
        loader: Any = spec.loader if spec else None
        return loader.get_code(self._name) if loader else None


def _new_name(fullname: str) -> str:
    """The present name of a module; "" if it is not an old name."""
    for old, new in MOVED.items():
        if fullname == old or fullname.startswith(f"{old}."):
            return new + fullname.removeprefix(old)
    return ""
