"""Looks at the numbers of every step: stops a lost run, lists images that could not be read."""

import collections
import math
from collections.abc import Callable

import jax
import numpy as np
from etils import epath

from dino_jax.data.sources import ImageSource
from dino_jax.run.screen import Progress
from dino_jax.step.health import MOMENTS, describe_moments
from dino_jax.step.train_step import Metrics
from dino_jax.workdir.layout import BAD_IMAGES_TXT
from dino_jax.workdir.paths import write_atomically
from dino_jax.workdir.side_files import read_side_file

ENOUGH_TO_TELL = 1000  # images seen before the share of unreadable ones can end a run
MOST_EXPLAINED = 100  # images that are read again to say why they cannot be read
RUN_AHEAD = 2  # steps that the host may run ahead of the devices before it looks at their numbers


class LostRunError(Exception):
    """A run that is not worth continuing: the message says why and what to change."""

    exit_code = 1


class NotFiniteError(LostRunError):
    """Too many steps in a row gave numbers that are not finite."""


class UnreadableImagesError(LostRunError):
    """Too large a share of the images cannot be read."""


class Watch:
    """Looks at the numbers of every step a little later than the devices make them."""

    def __init__(
        self,
        source: ImageSource,
        progress: Progress,
        folder: epath.Path,
        *,
        max_skipped_in_a_row: int,
        max_unreadable_share: float,
        explain: Callable[[int], str],
    ):
        """Makes a watch that has no numbers yet.

        Args:
          source: source of the training images.
          progress: the screen.
          folder: workdir; the names of unreadable images are collected in its bad_images.txt.
          max_skipped_in_a_row: steps that are not finite before the run gives up.
          max_unreadable_share: largest share of the images seen by this process group, in [0, 1].
          explain: name of an image by its index, and why it cannot be read.
        """
        self._source, self._progress = source, progress
        self._max_skipped, self._max_unreadable_share = max_skipped_in_a_row, max_unreadable_share
        self._pending: collections.deque = collections.deque()
        self._bad_images = BadImages(folder, source)
        self._explain, self._explained = explain, 0
        self._unreadable = 0
        self._newest: dict[str, float] = {}
        self._moments: dict[str, jax.Array] = {}

    def add(self, step: int, metrics: Metrics, unreadable: jax.Array) -> None:
        """Takes the numbers of a step that may still be running.

        Args:
          step: finished updates.
          metrics: metrics of that step, whole on every process, so that all processes stop
            together.
          unreadable: [B] source index of every image that was replaced, else -1; whole on every
            process.

        Raises:
          LostRunError: if too many earlier steps were not finite or had unreadable images.
        """
        self._pending.append((step, metrics, unreadable))
        if len(self._pending) > RUN_AHEAD:
            self._look()

    def wait(self) -> None:
        """Waits for all added steps."""
        while self._pending:
            self._look()

    def catch_up(self) -> dict[str, float]:
        """Waits for all steps; numbers of the newest one, unreadable images since the last call."""
        self.wait()
        count, self._unreadable = self._unreadable, 0
        if not self._newest:
            return {}
        features = describe_moments(jax.device_get(self._moments))
        return {**self._newest, **features, "unreadable_images": float(count)}

    def _look(self) -> None:
        step, metrics, unreadable = self._pending.popleft()
        self._moments = metrics[MOMENTS]
        scalars = {name: value for name, value in metrics.items() if name != MOMENTS}
        self._newest = {name: float(value) for name, value in jax.device_get(scalars).items()}
        self._check_images(np.asarray(unreadable))
        if not math.isfinite(self._newest["loss"]) or not math.isfinite(self._newest["grad_norm"]):
            self._check_skipped(step)

    def _check_images(self, unreadable: np.ndarray) -> None:
        bad = unreadable[unreadable >= 0]
        self._unreadable += len(bad)
        for index, name in self._bad_images.add(len(unreadable), bad.tolist()):
            self._explained += 1
            about = self._explain(index) if self._explained <= MOST_EXPLAINED else name
            self._progress.say(f"unreadable image, replaced by the next one: {about}")
        share = self._bad_images.share()
        if share > self._max_unreadable_share:
            raise UnreadableImagesError(
                f"{100 * share:.1f} % of the images so far could not be read "
                f"(config.max_unreadable_share = {self._max_unreadable_share}); they are listed in "
                f"{self._bad_images.path}. Fix or remove them, or raise "
                "config.max_unreadable_share."
            )

    def _check_skipped(self, step: int) -> None:
        count = int(self._newest["skipped_in_a_row"])
        self._progress.say(
            f"step {step}: loss {self._newest['loss']}, gradient norm "
            f"{self._newest['grad_norm']}: skipped ({count} in a row), student, teacher and "
            "center are unchanged"
        )
        if count >= self._max_skipped:
            raise NotFiniteError(
                f"{count} steps in a row up to step {step} were not finite "
                f"(config.max_skipped_in_a_row = {self._max_skipped}). The checkpoints hold "
                "finite numbers only. Lower config.optimizer.lr, set config.optimizer.clip_grad, "
                "or use config.network.dtype='float32', in a new workdir."
            )


class BadImages:
    """Names of the images that could not be read, each once, a line, in workdir/bad_images.txt."""

    def __init__(self, folder: epath.Path, source: ImageSource):
        """Continues the list of an earlier start, if there is one."""
        self.path = folder / BAD_IMAGES_TXT
        self._source = source
        self._names = read_side_file(self.path, str.splitlines, [], so="the list begins again")
        self._known: set[int] = set()
        self._seen = self._bad = 0

    def add(self, seen: int, bad: list[int]) -> list[tuple[int, str]]:
        """Counts the images of a batch; returns indices and names that are new in this start.

        Args:
          seen: images of the batch.
          bad: source indices of the unreadable ones.
        """
        self._seen += seen
        self._bad += len(bad)
        indices = [index for index in dict.fromkeys(bad) if index not in self._known]
        self._known.update(indices)
        names = [self._source.name(index) for index in indices]
        unlisted = [name for name in names if name not in self._names]
        if unlisted:
            self._names += unlisted
            if jax.process_index() == 0:
                write_atomically(self.path, "".join(f"{name}\n" for name in self._names))
        return list(zip(indices, names, strict=True))

    def share(self) -> float:
        """Share of unreadable images among those seen; 0 for one file, or before enough are."""
        if len(self._known) < 2:
            return 0.0
        enough = min(ENOUGH_TO_TELL, len(self._source))
        return self._bad / self._seen if self._seen >= enough else 0.0
