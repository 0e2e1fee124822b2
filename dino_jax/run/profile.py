"""xprof traces of chosen steps: dino-jax train … --config.profile.steps="(10, 12)"."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from etils import epath

from dino_jax.config.section import option
from dino_jax.workdir.layout import PROFILE
from dino_jax.workdir.paths import absolute_path, is_remote


@dataclass(frozen=True)
class ProfileConfig:
    """The section `config.profile`."""

    steps: tuple[int, ...] = option(
        (), "(first, last): an xprof trace of these steps in workdir/profile; (): none", at_least=1
    )


class Profile:
    """Traces the steps from `first` to `last`, both included; every process its own devices.

    profile.before(step)
    state, metrics = train_step(state, batch)
    profile.after(step, metrics)
    """

    def __init__(self, steps: Sequence[int], workdir: epath.PathLike):
        """Traces nothing yet.

        Args:
          steps: (first, last), or () for no trace; see `check_profile`.
          workdir: workdir of the run, local if there are steps.
        """
        self._first, self._last = tuple(steps) or (0, 0)
        self._folder = absolute_path(workdir) / PROFILE
        self._running = False

    def before(self, step: int) -> None:
        """Call before step number `step`, counted from 1; starts the trace when it is due."""
        if self._first <= step <= self._last and not self._running:
            jax.profiler.start_trace(os.fspath(self._folder))
            self._running = True

    def after(self, step: int, results: Any) -> None:
        """Call after it; ends the trace when it is due, once `results` are there."""
        if self._running and step >= self._last:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Ends a trace that is running."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False


def check_profile(steps: Sequence[int], workdir: epath.PathLike) -> None:
    """Checks `config.profile.steps` before a run starts.

    Raises:
      ValueError: if it is neither () nor (first, last), or the workdir is not on a local disk.
    """
    if not steps:
        return
    if len(steps) != 2 or not 1 <= steps[0] <= steps[1]:
        raise ValueError(
            f"profile.steps must be () or (first, last) with 1 <= first <= last, got "
            f"{tuple(steps)}; try --config.profile.steps='(10, 12)'"
        )
    if is_remote(epath.Path(workdir)):
        raise ValueError(
            f"profile.steps writes to a local disk, and {os.fspath(workdir)} is not; profile a "
            "short run with a local --workdir"
        )
