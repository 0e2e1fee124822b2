"""Looks at the numbers of every step: stops a lost run, names images that could not be read."""

import collections
import math

import jax
import numpy as np

from dino_jax.data.sources import ImageSource
from dino_jax.metrics import Progress

RUN_AHEAD = 2  # steps that the host may be ahead of the devices before it looks at their numbers


class NotFiniteError(Exception):
    """Too many steps in a row gave numbers that are not finite."""


class Watch:
    """Looks at the numbers of every step a little later than the devices make them."""

    def __init__(self, source: ImageSource, progress: Progress, max_skipped_in_a_row: int):
        self._source, self._progress = source, progress
        self._limit = max_skipped_in_a_row
        self._pending: collections.deque = collections.deque()
        self._named: set[int] = set()
        self._unreadable = 0
        self._newest: dict[str, float] = {}

    def add(self, step: int, metrics: dict[str, jax.Array], unreadable: jax.Array) -> None:
        """Takes the numbers of a step that may still be running.

        Args:
          step: finished updates.
          metrics: of that step, whole on every process, so that all processes stop together.
          unreadable: [B] source index of every image that was replaced, else -1; whole on every
            process.

        Raises:
          NotFiniteError: if an earlier step was the last of too many that were not finite.
        """
        self._pending.append((step, metrics, unreadable))
        if len(self._pending) > RUN_AHEAD:
            self._look()

    def wait(self) -> None:
        """Waits for all steps that were added."""
        while self._pending:
            self._look()

    def catch_up(self) -> dict[str, float]:
        """Waits for all steps; numbers of the newest one, unreadable images since the last call."""
        self.wait()
        count, self._unreadable = self._unreadable, 0
        return {**self._newest, "unreadable_images": float(count)} if self._newest else {}

    def _look(self) -> None:
        step, metrics, unreadable = self._pending.popleft()
        self._newest = {name: float(value) for name, value in jax.device_get(metrics).items()}
        bad = np.asarray(unreadable)
        for index in bad[bad >= 0].tolist():
            self._unreadable += 1
            if index not in self._named:
                self._named.add(index)
                self._progress.say(
                    f"unreadable image, replaced by the next one: {self._source.name(index)}"
                )
        if not math.isfinite(self._newest["loss"]) or not math.isfinite(self._newest["grad_norm"]):
            count = int(self._newest["skipped_in_a_row"])
            self._progress.say(
                f"step {step}: loss {self._newest['loss']}, gradient norm "
                f"{self._newest['grad_norm']}: skipped ({count} in a row), student, teacher and "
                "center are unchanged"
            )
            if count >= self._limit:
                raise NotFiniteError(
                    f"{count} steps in a row up to step {step} were not finite "
                    f"(config.max_skipped_in_a_row = {self._limit}). The checkpoints hold "
                    "finite numbers only. Lower config.optimizer.lr, set "
                    "config.optimizer.clip_grad, or use config.network.dtype='float32', in a new "
                    "workdir."
                )
