"""Guards a run that continues from other weights: it must not get worse than they were.

The measurement of the first network by `guard.evaluation` is kept in `workdir/guard.json`. At every
multiple of `guard.every_epochs`, and at the end, the network is measured again; more than
`guard.margin` below, the run warns, stops, or rolls back (roll_back.py).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from dino_jax.commands.command_line import user_errors
from dino_jax.config.range import MOST_EPOCHS
from dino_jax.config.section import option
from dino_jax.evaluation.online.base import Context, Guarding, Metrics, Reference, Variables
from dino_jax.evaluation.online.build import (
    EVALUATIONS,
    Scheduled,
    check_named,
    has_images,
    image_options,
)
from dino_jax.run.roll_back import (
    RollBackRequest,
    rate_factor,
    read_guard,
    write_guard,
)
from dino_jax.run.screen import Progress
from dino_jax.run.watch import LostRunError
from dino_jax.workdir.layout import GUARD_JSON


@dataclass(frozen=True)
class GuardConfig:
    """Reaction to a network that gets worse than the model of `config.init_from`."""

    action: Literal["none", "warn", "stop", "roll_back"] = option("none", "on a worse network")
    evaluation: str = option("knn", "name in config.evaluations: what is compared, in [0, 1]")
    margin: float = option(
        0.05, "how far it may fall below the start; agreement: 0.5", at_least=0, below=1
    )
    every_epochs: float = option(1.0, "between two checks", above=0, at_most=MOST_EPOCHS)
    lr_factor: float = option(0.1, "roll_back: of the learning rates, each time", above=0, below=1)
    max_roll_backs: int = option(2, "roll_back: then stop", at_least=0, at_most=1000)


class WorseThanStartError(LostRunError):
    """The network is worse than the model that the run started from."""


class Guard:
    """Compares the evaluated network of a run with the model from which the run started.

    Attributes:
      every_steps: steps between two checks; 0 without a guard.
    """

    def __init__(
        self,
        config: Any,
        context: Context,
        evaluations: Mapping[str, Scheduled],
        steps_per_epoch: int,
        total_steps: int,
    ):
        """A guard whose action is "none" does nothing.

        Args:
          config: the whole config, checked by `check_guard`.
          context: context of the run.
          evaluations: evaluations of the run, by name.
          steps_per_epoch: steps per epoch of the run.
          total_steps: total steps of the run.
        """
        self._config, self._role, self._total_steps = config.guard, context.evaluated, total_steps
        self._compared: Scheduled | None = None
        self.every_steps = 0
        if config.guard.action != "none":
            self.every_steps = math.ceil(config.guard.every_epochs * steps_per_epoch)
            self._compared = evaluations[config.guard.evaluation]
            self._measure = cast(Guarding, self._compared.evaluation)
        self._reference: Reference = {}

    def start(
        self,
        folder: epath.Path,
        networks: Mapping[str, Variables],
        resumed: bool,
        known: Metrics,
        progress: Progress,
    ) -> Metrics:
        """Measures the first network, or in a resumed run reads that measurement.

        Args:
          folder: workdir.
          networks: variables of the first state by role.
          resumed: whether the state comes from a checkpoint of the workdir.
          known: measurements of this state so far.
          progress: the screen.

        Returns:
          The numbers of step 0; {} in a resumed run.
        """
        if self._compared is None:
            return {}
        self._folder, self._progress = folder, progress
        record = read_guard(folder)
        if resumed:
            with user_errors():
                self._reference = _stored_reference(record, folder)
            metrics = {}
        else:
            with progress.pause("guard"):
                own = self._compared.own(known)
                self._reference = self._measure.reference(networks[self._role], own)
            write_guard(folder, record | {"reference": self._reference})
            metrics = {f"guard/{self._measure.guarded}": self._reference["value"]}
        self._roll_backs = len(record["roll_backs"])
        config = self._config
        progress.say(
            f"guard       {self._measure.guarded} of the imported model "
            f"{self._reference['value']:.4f}; every {self.every_steps} steps, below "
            f"{self._limit():.4f}: {config.action}"
        )
        if self._roll_backs:
            factor = rate_factor(config, self._roll_backs)
            progress.say(f"            roll-backs {self._roll_backs}: learning rates x {factor:g}")
        return metrics

    def measure(self, step: int, networks: Mapping[str, Variables], known: Metrics) -> Metrics:
        """The measure of the evaluated network after `step`, if a check is due, else {}.

        Args:
          step: finished updates.
          networks: variables by role.
          known: measurements of this state so far.
        """
        if self._compared is None or (step % self.every_steps and step != self._total_steps):
            return {}
        variables = jax.block_until_ready(networks[self._role])
        with self._progress.pause("guard"), user_errors():
            value = self._measure.value(variables, self._reference, self._compared.own(known))
        return {f"guard/{self._measure.guarded}": _same_everywhere(value)}

    def judge(self, step: int, measured: Metrics) -> bool:
        """Acts on the result of `measure`, once it is in the log.

        Args:
          step: finished updates.
          measured: result of `measure`.

        Returns:
          Whether a check was passed, so that this step is worth a checkpoint.

        Raises:
          WorseThanStartError: if the network is too bad and the run must end.
          RollBackRequest: if the run must go back.
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
            "config.optimizer.layer_decay; see docs/continuing.md."
        )


def check_guard(config: Any) -> None:
    """Checks that there is a model to compare with, and an evaluation that compares.

    Args:
      config: the whole config.

    Raises:
      ValueError: if one is missing.
    """
    guard, where = config.guard, "config.guard.evaluation"
    if guard.action == "none":
        return
    if not config.init_from.path:
        raise ValueError(
            f"config.guard.action is {guard.action!r}, but there is no model to compare with: set "
            "config.init_from.path, or config.guard.action='none'"
        )
    check_named(where, guard.evaluation, config)
    entry = config.evaluations[guard.evaluation]
    if not EVALUATIONS[entry.kind].GUARDS:
        fitting = sorted(kind for kind, module in EVALUATIONS.items() if module.GUARDS)
        raise ValueError(
            f"{where} ({guard.evaluation!r}) is of kind {entry.kind!r}, which has no single number "
            f"to compare; kinds that have one: {fitting}"
        )
    if not has_images(entry):
        raise ValueError(
            f"{where} ({guard.evaluation!r}) has no images; add "
            f"{image_options(guard.evaluation, config)}, or choose another evaluation"
        )


def _stored_reference(record: dict[str, Any], folder: epath.Path) -> Reference:
    if record["reference"] is None:
        raise ValueError(
            f"{folder / GUARD_JSON} is missing, so the quality of the imported model is unknown; "
            "start again in a new workdir"
        )
    return record["reference"]


def _same_everywhere(value: float) -> float:
    """The value on process 0, since all processes must decide alike."""
    if jax.process_count() == 1:
        return value
    return float(multihost_utils.broadcast_one_to_all(np.float32(value)))
