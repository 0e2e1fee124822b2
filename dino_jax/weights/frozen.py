"""Frozen roles: networks of finished runs of dino_jax that a run learns from.

A student learns the targets of a larger network that no longer changes, through the train step of
every other run; its EMA is kept, and is what is evaluated and released (DINOv2, arXiv:2304.07193,
Section 5; DINOv3, arXiv:2508.10104, Section 5).
"""

import os
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from dino_jax.config.change import change
from dino_jax.devices.sharding import state_sharding, with_sharding
from dino_jax.models.build import build_network
from dino_jax.models.network import Network
from dino_jax.step.train_state import Variables, init_variables
from dino_jax.weights.finished_run import read_run
from dino_jax.weights.suffixes import SUFFIXES
from dino_jax.workdir import checkpointing
from dino_jax.workdir.config_json import read_config_json


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
        """Reads the variables straight onto the mesh, each device its part.

        Args:
          mesh: mesh of the devices; large arrays are split over "fsdp" as those of the state.
          crop_shape: (H, W, C) of a global crop.

        Raises:
          OSError: if the checkpoint cannot be read.
          ValueError: if it does not belong to the config.json beside it.
        """
        abstract = self.abstract(mesh, crop_shape)
        return checkpointing.load_network(self.path, abstract, self.step, self.role)

    def abstract(self, mesh: Mesh, crop_shape: tuple[int, int, int]) -> Variables:
        """Shapes of the variables, with their shardings; the arguments are those of `load`."""
        init = partial(init_variables, self.network, crop_shape)
        abstract = jax.eval_shape(init, jax.random.key(0))
        return with_sharding(abstract, state_sharding(mesh, abstract))


@dataclass(frozen=True)
class FrozenRoles:
    """The frozen networks of a run by role."""

    found: dict[str, FrozenNetwork]

    @property
    def networks(self) -> dict[str, Network]:
        """Modules by role."""
        return {name: each.network for name, each in self.found.items()}

    @property
    def lines(self) -> tuple[str, ...]:
        """For the screen."""
        return tuple(
            f"{name:<11} the {each.role} of step {each.step} of {each.path}, frozen"
            for name, each in self.found.items()
        )

    def fill_steps(self, config: Any) -> Any:
        """The whole config with the checkpoint of every frozen role."""
        return change(config, {f"roles.{name}.step": x.step for name, x in self.found.items()})

    def abstract(self, mesh: Mesh, crop_shape: tuple[int, int, int]) -> dict[str, Variables]:
        """Shapes of what `load` gives, with their shardings."""
        return {name: each.abstract(mesh, crop_shape) for name, each in self.found.items()}

    def load(self, mesh: Mesh, crop_shape: tuple[int, int, int]) -> dict[str, Variables]:
        """Variables by role, as `FrozenNetwork.load` reads them."""
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
      ValueError: if it is a file of weights, which have no heads.
    """
    frozen = {name: role for name, role in roles.items() if role.follow == "frozen"}
    return FrozenRoles({name: _open(name, role, workdir) for name, role in frozen.items()})


def _open(name: str, config: Any, workdir: epath.PathLike) -> FrozenNetwork:
    where, path = f"config.roles.{name}.path", config.path
    if not path:
        raise ValueError(f"{where} is empty; a frozen role needs the workdir of a run of dino_jax")
    if path.endswith(SUFFIXES):
        raise ValueError(
            f"{where} ({path}) must be the workdir of a run of dino_jax: files of weights have no "
            "heads, and the objectives read the output of heads"
        )
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


def _step_of_earlier_start(name: str, workdir: epath.PathLike) -> int | None:
    """`step` of a role in the workdir's own config.json; None for a new workdir."""
    if not os.fspath(workdir) or read_config_json(workdir) is None:
        return None
    return read_run(workdir).config.get("roles", {}).get(name, {}).get("step")
