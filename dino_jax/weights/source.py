"""Sources of weights: the teacher of a run of dino_jax, or a file of another code base."""

from typing import Any, Protocol

import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from dino_jax.foreign.json_text import read_json
from dino_jax.models.backbone import ImplicitSettings
from dino_jax.models.build import build_network, read_network_config
from dino_jax.weights.dialects import to_official
from dino_jax.weights.first_kernel import FIRST_TENSORS, find_first_kernel
from dino_jax.weights.model_card import read_model_card
from dino_jax.weights.state_dict import read_weights
from dino_jax.weights.suffixes import SUFFIXES
from dino_jax.weights.torch_names import Path, Variables, from_torch, split_state_dict
from dino_jax.weights.weights_file import BACKBONE
from dino_jax.workdir import checkpointing
from dino_jax.workdir.config_json import MAX_CONFIG_BYTES
from dino_jax.workdir.layout import CONFIG_JSON
from dino_jax.workdir.paths import absolute_path

POSITIONS = ("params", BACKBONE, "pos_embed")


class Source(Protocol):
    """Weights of one network.

    Attributes:
      title: description for the console.
      implicit: settings that its shapes do not show.
    """

    title: str
    implicit: ImplicitSettings

    def parts(self) -> set[str]:
        """Names of its parts: "backbone", "heads_dino" …"""
        ...

    def positions(self) -> int | None:
        """Rows of the position table, the cls token's included; None without a table."""
        ...

    def channels(self) -> int | None:
        """Channels of the images; None for a backbone of an unknown kind."""
        ...

    def centers(self) -> dict[str, np.ndarray]:
        """[K] running centers by objective; {} without any."""
        ...

    def read(self, like: Variables) -> Variables:
        """The part that `like` describes, float32.

        Raises:
          ValueError: if tensors of this part are missing, left over or of other shapes; lists them.
        """
        ...


def open_source(path: str, step: int | None, like: Variables) -> Source:
    """Opens a file of weights or a workdir of dino_jax, by the suffix of `path`.

    Args:
      path: path of the file or directory.
      step: checkpoint of a workdir; None: the newest.
      like: variables of the network that the weights are for; it gives names to the heads of a
        file.

    Raises:
      OSError: if there is no such file or checkpoint, or it cannot be read.
      ValueError: if a file is given a step, or holds no weights.
    """
    if not path.endswith(SUFFIXES):
        return RunSource(path, step)
    if step is not None:
        raise ValueError(f"init_from.step ({step}) is for workdirs, not for the file {path}")
    return FileSource(path, like)


class RunSource:
    """The network that a run of dino_jax evaluates."""

    def __init__(self, path: str, step: int | None):
        """Reads a checkpoint of the workdir `path`, the newest if `step` is None."""
        self._variables, step = checkpointing.read_network(path, step)
        objectives = checkpointing.read_objectives(path, step)
        self._centers = {n: x["center"] for n, x in objectives.items() if "center" in (x or {})}
        self.title = f"{checkpointing.evaluated_role(path)} of step {step} of {path}"
        self.implicit = _read_implicit(absolute_path(path) / CONFIG_JSON)

    def parts(self) -> set[str]:
        return set(self._variables["params"])

    def positions(self) -> int | None:
        flat: dict[Path, Any] = flatten_dict(self._variables)
        table = flat.get(POSITIONS)
        return None if table is None else table.shape[1]

    def channels(self) -> int | None:
        flat: dict[Path, Any] = flatten_dict(self._variables)
        path = find_first_kernel(flat)
        return None if path is None else flat[path].shape[2]

    def centers(self) -> dict[str, np.ndarray]:
        return self._centers

    def read(self, like: Variables) -> Variables:
        (name,) = like["params"]
        ours: dict[Path, Any] = flatten_dict(like)
        theirs: dict[Path, Any] = flatten_dict(take_part(self._variables, name))
        shapes = [{path: x.shape for path, x in tree.items()} for tree in (ours, theirs)]
        lines = [
            f"{'/'.join(path)}: the run has {shapes[1].get(path, 'nothing')}, "
            f"this network {shapes[0].get(path, 'nothing')}"
            for path in sorted(ours.keys() | theirs.keys())
            if shapes[0].get(path) != shapes[1].get(path)
        ]
        if lines:
            raise ValueError(f"the {self.title} does not fit the network:\n  " + "\n  ".join(lines))
        return unflatten_dict(theirs)


class FileSource:
    """A file of weights of another code base."""

    def __init__(self, path: str, like: Variables):
        """Reads the file `path` for a network with the heads of `like`."""
        saved, card = read_weights(path), read_model_card(path)
        official = to_official(saved.networks[saved.main], card.by_timm, card.rope)
        self.implicit = official.implicit(card.num_heads, card.norm_epsilon)
        self._parts = split_state_dict(official.tensors, like)
        self._centers = saved.centers
        self.title = path

    def parts(self) -> set[str]:
        return set(self._parts)

    def positions(self) -> int | None:
        tables = [
            x for name, x in self._parts.get(BACKBONE, {}).items() if name.endswith("pos_embed")
        ]
        return tables[0].shape[1] if tables and tables[0].ndim == 3 else None

    def channels(self) -> int | None:
        tensors = self._parts.get(BACKBONE, {}).items()
        found = [x for name, x in tensors if name.removeprefix(f"{BACKBONE}.") in FIRST_TENSORS]
        return found[0].shape[1] if found and found[0].ndim == 4 else None

    def centers(self) -> dict[str, np.ndarray]:
        return self._centers

    def read(self, like: Variables) -> Variables:
        (name,) = like["params"]
        try:
            return from_torch(self._parts.get(name, {}), like)
        except ValueError as error:
            raise ValueError(f"{self.title}: {error}") from error


def take_part(variables: Variables, name: str) -> Variables:
    """The backbone or one head, in every collection."""
    return {kind: {name: parts[name]} for kind, parts in variables.items() if name in parts}


def _read_implicit(config_json: epath.Path) -> ImplicitSettings:
    """Settings of the backbone in the config of a run or an import."""
    if not config_json.exists():
        return ImplicitSettings()
    config = read_network_config(read_json(config_json, MAX_CONFIG_BYTES))
    return build_network(config).backbone.implicit
