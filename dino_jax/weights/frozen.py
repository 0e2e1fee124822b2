"""Frozen roles: networks of finished runs, or files of weights, that a run learns from.

A student learns the targets of a larger network that no longer changes, through the train step of
every other run; its EMA is kept, and is what is evaluated and released (DINOv2, arXiv:2304.07193,
Section 5; DINOv3, arXiv:2508.10104, Section 5).
"""

import os
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from dino_jax.config.change import change
from dino_jax.devices.sharding import state_sharding, with_sharding
from dino_jax.models.build import build_network
from dino_jax.models.network import Network
from dino_jax.step.train_state import Variables, init_variables
from dino_jax.weights.finished_run import read_run
from dino_jax.weights.suffixes import SUFFIXES
from dino_jax.weights.weights_file import read_network
from dino_jax.workdir import checkpointing
from dino_jax.workdir.config_json import read_config_json
from dino_jax.workdir.paths import absolute_path


class FrozenOne(Protocol):
    """A network that does not change.

    Attributes:
      step: step of its checkpoint; None: it has none.
      network: module.
    """

    @property
    def step(self) -> int | None: ...

    @property
    def network(self) -> Network: ...

    def load(self, mesh: Mesh, crop_shape: tuple[int, int, int]) -> Variables:
        """Reads the variables onto the mesh.

        Args:
          mesh: mesh of the devices; large arrays are split over "fsdp" as those of the state.
          crop_shape: (H, W, C) of a global crop.

        Raises:
          OSError: if they cannot be read.
          ValueError: if they are not those of the network.
        """
        ...

    def abstract(self, mesh: Mesh, crop_shape: tuple[int, int, int]) -> Variables:
        """Shapes of the variables, with their shardings; the arguments are those of `load`."""
        ...

    def describe(self) -> str:
        """For the screen."""
        ...


@dataclass(frozen=True)
class FrozenFile:
    """The backbone of a file of weights; heads of it are not read.

    Attributes:
      path: the file.
      network: module without heads.
      variables: NumPy arrays.
    """

    path: str
    network: Network
    variables: Variables

    step = None

    def load(self, mesh: Mesh, crop_shape: tuple[int, int, int]) -> Variables:
        """See `FrozenOne.load`."""
        del crop_shape
        arrays = jax.tree.map(np.asarray, self.variables)
        return jax.tree.map(
            lambda x, place: jax.make_array_from_callback(x.shape, place, x.__getitem__),
            arrays,
            state_sharding(mesh, arrays),
        )

    def abstract(self, mesh: Mesh, crop_shape: tuple[int, int, int]) -> Variables:
        """See `FrozenOne.abstract`."""
        del crop_shape
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.variables)
        return with_sharding(shapes, state_sharding(mesh, shapes))

    def describe(self) -> str:
        """See `FrozenOne.describe`."""
        return f"the network of {self.path}, frozen"


@dataclass(frozen=True)
class FrozenNetwork:
    """The network that a run evaluates, as one of its checkpoints has it.

    Attributes:
      path: workdir of the run.
      role: role that the run evaluates.
      step: step of the checkpoint.
      network: module with all heads of the run.
    """

    path: str
    role: str
    step: int
    network: Network

    def load(self, mesh: Mesh, crop_shape: tuple[int, int, int]) -> Variables:
        """Reads the variables straight onto the mesh, each device its part; see `FrozenOne`."""
        abstract = self.abstract(mesh, crop_shape)
        return checkpointing.load_network(self.path, abstract, self.step, self.role)

    def abstract(self, mesh: Mesh, crop_shape: tuple[int, int, int]) -> Variables:
        """See `FrozenOne.abstract`."""
        init = partial(init_variables, self.network, crop_shape)
        abstract = jax.eval_shape(init, jax.random.key(0))
        return with_sharding(abstract, state_sharding(mesh, abstract))

    def describe(self) -> str:
        """See `FrozenOne.describe`."""
        return f"the {self.role} of step {self.step} of {self.path}, frozen"


@dataclass(frozen=True)
class FrozenRoles:
    """The frozen networks of a run by role."""

    found: dict[str, FrozenOne]

    @property
    def networks(self) -> dict[str, Network]:
        """Modules by role."""
        return {name: each.network for name, each in self.found.items()}

    @property
    def lines(self) -> tuple[str, ...]:
        """For the screen."""
        return tuple(f"{name:<11} {each.describe()}" for name, each in self.found.items())

    def fill_steps(self, config: Any) -> Any:
        """The whole config with the checkpoint of every frozen role."""
        return change(config, {f"roles.{name}.step": x.step for name, x in self.found.items()})

    def abstract(self, mesh: Mesh, crop_shape: tuple[int, int, int]) -> dict[str, Variables]:
        """Shapes of what `load` gives, with their shardings."""
        return {name: each.abstract(mesh, crop_shape) for name, each in self.found.items()}

    def load(self, mesh: Mesh, crop_shape: tuple[int, int, int]) -> dict[str, Variables]:
        """Variables by role, as `FrozenOne.load` reads them."""
        return {name: each.load(mesh, crop_shape) for name, each in self.found.items()}


def open_frozen(roles: Any, workdir: epath.PathLike = "") -> FrozenRoles:
    """Finds the networks of the frozen roles.

    Without a `step` it is the newest checkpoint; a workdir that was started with that one stays
    with it, also when the other run has continued since.

    Args:
      roles: `config.roles`, sections by name.
      workdir: workdir of the run that learns; "": a new one.

    Raises:
      OSError: if there is no such run or checkpoint.
      ValueError: if a path is empty, or a file holds no known network.
    """
    frozen = {name: role for name, role in roles.items() if role.follow == "frozen"}
    return FrozenRoles({name: _open(name, role, workdir) for name, role in frozen.items()})


def _open(name: str, config: Any, workdir: epath.PathLike) -> FrozenOne:
    where, path = f"config.roles.{name}.path", config.path
    if not path:
        raise ValueError(
            f"{where} is empty; a frozen role needs the workdir of a run of dino_jax, or a file of "
            "weights"
        )
    if path.endswith(SUFFIXES):
        return _open_file(where, path, config.step)
    try:
        run = read_run(path)
    except (OSError, ValueError) as error:
        raise type(error)(f"{where}: {error}") from error
    step = config.step
    if step is None:
        step = _step_of_earlier_start(name, workdir)
    steps = checkpointing.checkpoint_steps(path)
    if not steps or step not in (None, *steps):
        wanted = "checkpoint" if step is None else f"checkpoint {step}"
        raise FileNotFoundError(f"{where} ({path}) has no {wanted}; steps found: {sorted(steps)}")
    chosen = max(steps) if step is None else step
    return FrozenNetwork(path, run.role, chosen, build_network(run.network))


def _open_file(where: str, path: str, step: int | None) -> FrozenFile:
    if step is not None:
        raise ValueError(f"{where} ({path}) is a file: the step ({step}) is for workdirs")
    try:
        read = read_network(absolute_path(path), with_heads=False)
    except (OSError, ValueError) as error:
        raise type(error)(f"{where}: {error}") from error
    return FrozenFile(path, read.network, read.variables)


def _step_of_earlier_start(name: str, workdir: epath.PathLike) -> int | None:
    """`step` of a role in the workdir's own config.json; None for a new workdir."""
    if not os.fspath(workdir) or read_config_json(workdir) is None:
        return None
    return read_run(workdir).config.get("roles", {}).get(name, {}).get("step")
