"""The frozen teacher of a distillation, from a finished run of dino_jax, for `config.distill`.

A student learns the targets of a larger network that no longer changes, through the train step of
every other run; the EMA of the student is kept as in every other run, and is what is evaluated and
released (DINOv2, arXiv:2304.07193, Section 5; DINOv3, arXiv:2508.10104, Section 5).
"""

import dataclasses
import json
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh

from dino_jax.devices.sharding import state_sharding, with_sharding
from dino_jax.models.build import build_network, read_network_config
from dino_jax.models.network import Network
from dino_jax.step.train_state import Variables, init_variables
from dino_jax.weights.state_dict import SUFFIXES
from dino_jax.workdir import checkpointing
from dino_jax.workdir.layout import CONFIG_JSON
from dino_jax.workdir.paths import absolute_path


@dataclasses.dataclass(frozen=True)
class Distillation:
    """The network whose targets a student learns, if that is not its own EMA.

    Attributes:
      path: workdir of its run.
      step: of the checkpoint.
      network: module with all heads of its run; None: no distillation.
    """

    path: str = ""
    step: int = 0
    network: Network | None = None

    @property
    def lines(self) -> tuple[str, ...]:
        """For the screen."""
        said = f"distill     from the teacher of step {self.step} of {self.path}, frozen"
        return (said,) if self.network else ()

    def load(self, mesh: Mesh, crop_shape: tuple[int, int, int]) -> Variables | None:
        """Reads the variables straight onto the mesh, each device its part; None if there are none.

        Args:
          mesh: of the devices; large arrays are split over "fsdp" as those of the state.
          crop_shape: (H, W, C) of a global crop.

        Raises:
          OSError: if the checkpoint cannot be read.
          ValueError: if it does not belong to the config.json beside it.
        """
        if self.network is None:
            return None
        init = partial(init_variables, self.network, crop_shape)
        abstract = jax.eval_shape(init, jax.random.key(0))
        return checkpointing.load_teacher(
            self.path, with_sharding(abstract, state_sharding(mesh, abstract)), self.step
        )


def open_distillation(config: Any, workdir: str) -> Distillation:
    """Finds the teacher that `config.distill` names, if it names one.

    Without a `distill.step` it is the newest checkpoint; a workdir that was started with that one
    stays with it, also when the teacher's run has gone on since.

    Args:
      config: the whole config; `distill.step` is filled in.
      workdir: of the student's run.

    Raises:
      OSError: if there is no such run or checkpoint.
      ValueError: if it is a file of weights (they have no heads), or its network and the student's
        do not fit together.
    """
    path = config.distill.path
    if not path:
        return Distillation()
    if path.endswith(SUFFIXES):
        raise ValueError(
            f"config.distill.path ({path}) must be the workdir of a run of dino_jax: files of "
            "weights have no heads, and the student learns the output of the teacher's heads"
        )
    file = absolute_path(path) / CONFIG_JSON
    if not file.exists():
        raise FileNotFoundError(
            f"config.distill.path ({path}) is no workdir of a run: it has no {CONFIG_JSON}"
        )
    if config.distill.step is None:
        earlier = _step_of_earlier_start(workdir)
        config.distill.step = _newest_step(path) if earlier is None else earlier
    network_config = read_network_config(json.loads(file.read_text()))
    network = build_network(network_config)
    check_distillation(config, network_config)
    return Distillation(path, config.distill.step, network)


def check_distillation(config: Any, teacher: Any) -> None:
    """Checks that a student can learn what a teacher says.

    Args:
      config: the whole config of the student's run.
      teacher: the section `network` of the teacher's run.

    Raises:
      ValueError: if an objective's head is missing or has another number of prototypes, the images
        have other channels, or iBOT compares patches of other places.
    """
    student = config.network
    if teacher.backbone.in_channels != student.backbone.in_channels:
        raise ValueError(
            f"the frozen teacher of {config.distill.path} takes images of "
            f"{teacher.backbone.in_channels} channels, the student of "
            f"{student.backbone.in_channels}; set --config.network.backbone.in_channels="
            f"{teacher.backbone.in_channels}"
        )
    heads = {o.head for o in config.objectives.values() if "head" in o} & set(student.heads)
    for name in sorted(heads):
        ours = student.heads[name].out_dim
        theirs = teacher.heads[name].out_dim if name in teacher.heads else None
        if ours != theirs:
            has = (
                f"{theirs} prototypes" if theirs else f"no such head, only {sorted(teacher.heads)}"
            )
            raise ValueError(
                f"network.heads.{name} of the student has {ours} prototypes, that of the frozen "
                f"teacher {config.distill.path} has {has}; student and teacher need the same: "
                f"set --config.network.heads.{name}.out_dim or the objectives' `head`"
            )
    patches = [_patch_size(network) for network in (teacher, student)]
    if "ibot" in config.objectives and patches[0] != patches[1]:
        raise ValueError(
            f"iBOT compares patches of the same place: the frozen teacher has {patches[0]}, the "
            f"student {patches[1]}; give the student the teacher's patch_size, or leave iBOT away "
            "(a config without config.objectives.ibot)"
        )


def _patch_size(network: Any) -> str:
    kind = network.backbone.kind
    size = f" of {network.backbone.patch_size} pixels" if kind == "vit" else ""
    return f"the patches{size} of a {kind}"


def _step_of_earlier_start(workdir: str) -> int | None:
    """`distill.step` of the workdir's own config.json; None for a new workdir."""
    file = absolute_path(workdir) / CONFIG_JSON
    if not file.exists():
        return None
    return json.loads(file.read_text()).get("distill", {}).get("step")


def _newest_step(path: str) -> int:
    steps = checkpointing.checkpoint_steps(path)
    if not steps:
        raise FileNotFoundError(f"config.distill.path ({path}) has no checkpoint")
    return max(steps)
