"""Checks at the start: all processes have the same images, devices and checkpoint, the run its own.

They come before anything is written, compiled or restored; what one process finds wrong ends all of
them, with one message.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from dino_jax.data.sources import ImageSource, build_source
from dino_jax.data.sources.base import Contents
from dino_jax.data.sources.contents import contents_of, describe_contents
from dino_jax.processes.agreement import Agreement, open_alike, require_same
from dino_jax.processes.facts import require_alike
from dino_jax.run.data_record import DataRecord
from dino_jax.run.runtime import PER_PROCESS
from dino_jax.workdir.array_sum import sum_array
from dino_jax.workdir.checkpointing import checkpoint_steps
from dino_jax.workdir.config_json import config_to_json
from dino_jax.workdir.dotted_names import flatten
from dino_jax.workdir.newest import check_history
from dino_jax.workdir.state_layout import flatten_tree

SAME_DATA = (
    "All hosts need the same images in the same order, the same devices, and one workdir that all "
    "of them reach; if the images are copied to each host, copy them again."
)
SAME_WEIGHTS = (
    "All hosts need the same files of weights (config.init_from.path, config.roles.NAME.path): "
    "copy them again."
)
SAME_CHECKPOINT_SECONDS = 60.0  # until a network file system shows a new checkpoint on all hosts


class StartChecks:
    """The checks at the start of a run, in the same order on all processes.

        source = checks.open_images(config)
        …build everything that can be wrong…
        checks.compare(config, sources)
        folder = open_workdir(…)
        checks.write()
        …read weights…
        checks.compare_weights(networks)

    Attributes:
      lines: lines for the screen.
    """

    def __init__(self, workdir: str, accept_data: str, agreement: Agreement):
        """Reads what the workdir says of its images.

        Args:
          workdir: workdir of the run, which need not exist.
          accept_data: see `DataRecord`.
          agreement: agreement of all processes.
        """
        self._workdir, self._agreement = workdir, agreement
        self._record = DataRecord(workdir, accept_data)
        self._resumes = False
        self.lines: list[str] = []

    def open_images(self, config: Any) -> ImageSource:
        """Opens the training images.

        Args:
          config: config of the run.

        Raises:
          ValueError: if a process cannot, or they differ between processes, or have changed since
            the last start; or if the checkpoints of the workdir are gone.
        """

        def read() -> tuple[ImageSource, dict[str, Contents]]:
            source = build_source(config.data)
            return source, contents_of("config.data", source)

        def describe(opened: tuple[ImageSource, dict[str, Contents]]) -> dict[str, Any]:
            return _devices() | describe_contents(opened[1])

        def judge(opened: tuple[ImageSource, dict[str, Contents]]) -> dict[str, Any]:
            lines = check_history(self._workdir)
            start = self._first_step()
            lines += self._record.check(opened[1], resumes=start > 0)
            return {"lines": lines, "start": start}

        (source, _), answer = open_alike(self._agreement, read, describe, SAME_DATA, judge)
        self.lines += answer["lines"]
        self._resumes = answer["start"] > 0
        _wait_until(lambda: self._first_step() == answer["start"])
        self._source = source
        return source

    def compare(self, config: Any, sources: Mapping[str, ImageSource]) -> None:
        """Compares what is known once everything is built.

        Args:
          config: config of the run, with everything that was found in files filled in.
          sources: images of the evaluations by section.

        Raises:
          ValueError: as `open_images`.
        """
        found = (contents_of(where, x) for where, x in sources.items() if x is not self._source)
        contents = {name: each for one in found for name, each in one.items()}
        facts = {"newest checkpoint": self._first_step()} | config_facts(config)
        facts |= describe_contents(contents)

        def judge(said: Mapping[int, Any]) -> list[str]:
            require_alike(said, self._agreement.hosts, SAME_DATA)
            return self._record.check(contents, resumes=self._resumes)

        self.lines += self._agreement.confer(facts, judge)

    def compare_weights(self, networks: Mapping[str, Any]) -> None:
        """Compares what all processes have read from files that each of them opens by itself.

        Args:
          networks: variables by role; what is split over processes is not compared.

        Raises:
          ValueError: if they differ.
        """
        if len(self._agreement.hosts) == 1:
            return
        facts = {
            f"weights {path}": sum_array(np.asarray(array.addressable_data(0))).number
            for path, array in flatten_tree(networks).items()
            if getattr(array, "is_fully_replicated", False)
        }
        require_same(self._agreement, facts, SAME_WEIGHTS)

    def write(self) -> None:
        """Keeps in the workdir, which exists now, which images the run has."""
        if jax.process_index() == 0:
            self._record.write()

    def _first_step(self) -> int:
        """The step of the newest checkpoint, damaged or not; 0 for a new run."""
        return max(checkpoint_steps(self._workdir), default=0)


def config_facts(config: Any) -> dict[str, Any]:
    """The values of a config by dotted name, less those that belong to a process."""
    plain = json.loads(config_to_json(dataclasses.asdict(config)))
    for name in PER_PROCESS:
        del plain["runtime"][name]
    return flatten(plain, "config")


def _devices() -> dict[str, Any]:
    local = jax.local_devices()
    return {"devices": len(local), "kind of device": local[0].device_kind}


def _wait_until(holds: Callable[[], bool]) -> None:
    """Waits for it, but not for ever."""
    patience = time.monotonic() + SAME_CHECKPOINT_SECONDS
    while not holds() and time.monotonic() < patience:
        time.sleep(1.0)
