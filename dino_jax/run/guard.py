"""Guards a run that continues from other weights: its teacher must not get worse than they were.

The measure of the first teacher is kept in `workdir/guard.json`. At every multiple of
`guard.every_epochs`, and at the end, the teacher is measured again; more than `guard.margin` below,
the run warns, stops, or rolls back (roll_back.py).
"""

import math
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from dino_jax.commands.command_line import user_errors
from dino_jax.evaluation.reference import MEASURES, Measure, Reference
from dino_jax.run.roll_back import (
    RollBackRequest,
    rate_factor,
    read_guard,
    write_guard,
)
from dino_jax.run.screen import Progress
from dino_jax.run.watch import LostRunError
from dino_jax.step.recipe import Recipe
from dino_jax.workdir.layout import GUARD_JSON

ACTIONS = ("none", "warn", "stop", "roll_back")

Metrics = dict[str, float]


class WorseThanStartError(LostRunError):
    """The teacher is worse than the model that the run started from."""


class Guard:
    """Compares the teacher of a run with the model that the run started from.

    Attributes:
      every_steps: between two checks; 0 without a guard.
    """

    def __init__(self, whole_config: Any, recipe: Recipe, mesh: Mesh):
        """Opens what the measure needs; a guard whose action is "none" does nothing.

        Args:
          whole_config: with the sections `guard`, `knn` and `init_from`.
          recipe: of the run.
          mesh: of the devices.

        Raises:
          ValueError: if a value is unknown or out of range, there is nothing to compare with, or
            the measure cannot be made with `config.knn`.
        """
        config = whole_config.guard
        check_guard(whole_config)
        self._config, self._total_steps = config, recipe.total_steps
        self._measure: Measure | None = None
        self.every_steps = 0
        if config.action != "none":
            self.every_steps = math.ceil(config.every_epochs * recipe.steps_per_epoch)
            self._measure = MEASURES[config.measure](whole_config, recipe.network, mesh)
        self._reference: Reference = {}

    def start(
        self, folder: epath.Path, teacher: Any, resumed: bool, known: Metrics, progress: Progress
    ) -> Metrics:
        """Measures the first teacher, or reads in a resumed run what was measured then.

        Args:
          folder: workdir.
          teacher: variables of the first state.
          resumed: whether the state comes from a checkpoint of the workdir.
          known: what was measured of this teacher already.
          progress: the screen.

        Returns:
          The numbers of step 0; {} in a resumed run.
        """
        if self._measure is None:
            return {}
        self._folder, self._progress = folder, progress
        record = read_guard(folder)
        if resumed:
            with user_errors():
                self._reference = _stored_reference(record, folder)
            metrics = {}
        else:
            with progress.pause("guard"):
                self._reference = self._measure.reference(teacher, known)
            write_guard(folder, record | {"reference": self._reference})
            metrics = {f"guard/{self._measure.name}": self._reference["value"]}
        self._roll_backs = len(record["roll_backs"])
        config = self._config
        progress.say(
            f"guard       {self._measure.name} of the imported model "
            f"{self._reference['value']:.4f}; every {self.every_steps} steps, below "
            f"{self._limit():.4f}: {config.action}"
        )
        if self._roll_backs:
            factor = rate_factor(config, self._roll_backs)
            progress.say(f"            roll-backs {self._roll_backs}: learning rates x {factor:g}")
        return metrics

    def measure(self, step: int, teacher: Any, known: Metrics) -> Metrics:
        """The measure of the teacher after `step`, if a check is due, else {}.

        Args:
          step: finished updates.
          teacher: its variables.
          known: what was measured of this teacher already.
        """
        if self._measure is None or (step % self.every_steps and step != self._total_steps):
            return {}
        jax.block_until_ready(teacher)
        with self._progress.pause("guard"), user_errors():
            value = self._measure.value(teacher, self._reference, known)
        return {f"guard/{self._measure.name}": _same_everywhere(value)}

    def judge(self, step: int, measured: Metrics) -> bool:
        """Acts on what `measure` gave, once it is in the log.

        Args:
          step: finished updates.
          measured: from `measure`.

        Returns:
          Whether a check was passed, so that this step is worth a checkpoint.

        Raises:
          WorseThanStartError: if the teacher is too bad and the run shall end.
          RollBackRequest: if the run shall go back.
        """
        if not measured:
            return False
        ((name, value),) = measured.items()
        said = (
            f"guard: step {step}: {name.removeprefix('guard/')} {value:.4f}, "
            f"imported model {self._reference['value']:.4f}"
        )
        if value >= self._limit():
            self._progress.say(f"{said}: good")
            return True
        self._progress.say(f"{said}: WORSE by more than {self._config.margin:g}")
        if self._config.action == "warn":
            return False
        if self._config.action == "roll_back" and self._roll_backs < self._config.max_roll_backs:
            raise RollBackRequest(self._folder, step, value, self.every_steps)
        raise WorseThanStartError(self._advice(said))

    def _limit(self) -> float:
        return self._reference["value"] - self._config.margin

    def _advice(self, said: str) -> str:
        rolled = f" after {self._roll_backs} roll-backs" if self._roll_backs else ""
        return (
            f"{said}{rolled}, more than config.guard.margin ({self._config.margin:g}) below. The "
            "checkpoints from before are kept. In a new workdir lower config.optimizer.lr, warm up "
            "longer, freeze the backbone first (config.optimizer.freeze_backbone_epochs), or use "
            "config.optimizer.layer_decay; docs/continuing.md tells more."
        )


def check_guard(whole_config: Any) -> None:
    """Checks the values of `config.guard`.

    Raises:
      ValueError: if one is unknown or out of range, or the run starts from random numbers.
    """
    config = whole_config.guard
    for name, known in (("action", ACTIONS), ("measure", sorted(MEASURES))):
        if config[name] not in known:
            raise ValueError(f"unknown guard.{name} {config[name]!r}; known: {list(known)}")
    if config.action == "none":
        return
    if not whole_config.init_from.path:
        raise ValueError(
            f"guard.action is {config.action!r}, but there is no model to compare with: set "
            "config.init_from.path, or guard.action='none'"
        )
    if not config.every_epochs > 0 or not 0 <= config.margin < 1:
        raise ValueError(
            f"guard.every_epochs ({config.every_epochs}) must be positive and guard.margin "
            f"({config.margin}) in [0, 1)"
        )
    if not 0 < config.lr_factor < 1 or config.max_roll_backs < 0:
        raise ValueError(
            f"guard.lr_factor ({config.lr_factor}) must be between 0 and 1 and "
            f"guard.max_roll_backs ({config.max_roll_backs}) at least 0"
        )


def _stored_reference(record: dict[str, Any], folder: epath.Path) -> Reference:
    if record["reference"] is None:
        raise ValueError(
            f"{folder / GUARD_JSON} is missing, so it is unknown how good the imported model was; "
            "start again in a new workdir"
        )
    return record["reference"]


def _same_everywhere(value: float) -> float:
    """The value of process 0: all processes must decide alike."""
    if jax.process_count() == 1:
        return value
    return float(multihost_utils.broadcast_one_to_all(np.float32(value)))
