"""The journal of a run: numbers, evaluations, pictures and a diagnosis."""

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
from etils import epath

from dino_jax.data.reading import explain_unreadable
from dino_jax.data.sources import ImageSource
from dino_jax.evaluation.online.base import Metrics
from dino_jax.run.best import Best
from dino_jax.run.diagnosis_log import DiagnosisLog
from dino_jax.run.first_step import FirstStep
from dino_jax.run.instruments import Instruments
from dino_jax.run.metrics_file import MetricsWriter, holds_numbers
from dino_jax.run.profile import Profile
from dino_jax.run.screen import Progress
from dino_jax.run.showcase import Showcase
from dino_jax.run.throughput import Throughput
from dino_jax.run.watch import Watch
from dino_jax.run.writers import open_writers
from dino_jax.step.recipe import Recipe
from dino_jax.step.train_state import TrainState, Variables
from dino_jax.workdir.config_json import config_to_json
from dino_jax.workdir.json_lines import read_json_lines
from dino_jax.workdir.layout import METRICS_JSONL


class Journal:
    """Keeps the journal of a run; a context manager, in the same order on all processes.

        journal.begin(lines, state, resumed, frozen)
        for every step:
            with journal.waiting(): batch = …
            journal.before(step)
            state, metrics = train_step(state, batch)
            journal.add(step, metrics, unreadable)
            worth_saving = journal.record(step, state)
        journal.finish(kept)

    Attributes:
      progress: the screen.
      hours_before: hours of earlier starts.
    """

    def __init__(
        self,
        folder: epath.Path,
        start_step: int,
        config: Any,
        recipe: Recipe,
        source: ImageSource,
        instruments: Instruments,
        best: Best,
        first_step: FirstStep,
    ):
        """Continues from the records of an earlier start up to `start_step`.

        Args:
          folder: workdir.
          start_step: finished updates.
          config: the whole config.
          recipe: recipe of the run.
          source: source of the training images.
          instruments: evaluations, pictures and guard of the run.
          best: learns which checkpoint is the best so far.
          first_step: measurement of this process; closed with this journal.

        Raises:
          ValueError: if a writer cannot be opened.
          OSError: if files of the workdir cannot be read.
        """
        self._folder, self._start, self._config = folder, start_step, config
        self._recipe, self._source = recipe, source
        self._instruments, self._best, self._first_step = instruments, best, first_step
        self._history = read_json_lines(folder / METRICS_JSONL, start_step, holds_numbers)
        for record in self._history:
            best.add(record["step"], record)
        plain_config = json.loads(config_to_json(config))
        self._copies = open_writers(config.runtime.writers, folder, start_step, plain_config)

    def __enter__(self) -> "Journal":
        config, recipe, history = self._config, self._recipe, self._history
        self.hours_before = max((x.get("time/hours") or 0.0 for x in history), default=0.0)
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.closing(self._first_step))
            self._writer = stack.enter_context(
                MetricsWriter(self._folder, self._start, self._copies)
            )
            self._profile = stack.enter_context(
                contextlib.closing(Profile(config.profile.steps, self._folder))
            )
            self._throughput = stack.enter_context(
                contextlib.closing(Throughput(self.hours_before))
            )
            self.progress = stack.enter_context(
                Progress(self._start, recipe.total_steps, config.batch_size)
            )
            # Before the diagnosis, whose last verdict belongs in the last report.
            self._showcase = stack.enter_context(
                Showcase(self._folder, config, self._instruments.probes, self.progress)
            )
            self._diagnosis = stack.enter_context(
                DiagnosisLog(
                    self._folder,
                    self._start,
                    history,
                    self.progress,
                    grace_steps=recipe.grace_steps,
                    total_steps=recipe.total_steps,
                    stop_on_collapse=config.runtime.stop_on_collapse,
                )
            )
            self._watch = Watch(
                self._source,
                self.progress,
                self._folder,
                max_skipped_in_a_row=config.max_skipped_in_a_row,
                max_unreadable_share=config.max_unreadable_share,
                explain=partial(explain_unreadable, self._source, max_pixels=config.max_pixels),
            )
            self._open = stack.pop_all()
        self._history = []  # of a long run it is large, and nobody needs it any more
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def begin(
        self,
        lines: Iterable[str],
        state: TrainState,
        resumed: bool,
        frozen: Mapping[str, Variables],
    ) -> None:
        """Describes the run, and evaluates the first networks of a new one.

        Args:
          lines: lines for the screen.
          state: state before the first step.
          resumed: whether it comes from a checkpoint of the workdir.
          frozen: variables of the frozen roles.
        """
        for line in (*lines, *self._instruments.lines):
            self.progress.say(line)
        self._frozen = frozen
        networks = self._networks(state)
        record = {} if resumed else self._evaluate(0, networks)
        guard = self._instruments.guard
        record |= guard.start(self._folder, networks, resumed, record, self.progress)
        if record:
            self._writer.write(0, record)

    @property
    def hours(self) -> float:
        """Hours of the run so far, those of earlier starts among them."""
        return self._throughput.hours

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Context for loading the next batch."""
        with self._throughput.batch(), self._first_step.batch():
            yield

    def before(self, step: int) -> None:
        """Call before step number `step`, counted from 1."""
        self._profile.before(step)
        self._first_step.begin()

    def add(self, step: int, metrics: dict[str, jax.Array], unreadable: jax.Array) -> None:
        """Takes the numbers of a step that may still be running.

        Args:
          step: finished updates.
          metrics: metrics of that step, whole on every process.
          unreadable: see `Watch.add`.

        Raises:
          LostRunError: as in `Watch.add`.
        """
        if line := self._first_step.end():
            self.progress.say(line)
        self._profile.after(step, metrics)
        self._throughput.started(metrics["loss"])
        self._watch.add(step, metrics, unreadable)
        self.progress.advance(step)

    def record(self, step: int, state: TrainState) -> bool:
        """Logs, evaluates and judges whatever is due after a step.

        Args:
          step: finished updates.
          state: state after them.

        Returns:
          Whether this step is worth a checkpoint.

        Raises:
          LostRunError: if the run is not worth continuing.
          RollBackRequest: if it must go back.
        """
        networks = self._networks(state)
        record = self._log(step) | self._evaluate(step, networks)
        checked = self._instruments.guard.measure(step, networks, record)
        self._write(step, record | checked)
        good = self._instruments.guard.judge(step, checked)
        improved = self._best.add(step, record)
        return good or improved

    def finish(self, kept: Sequence[int]) -> None:
        """Waits for the last step and names the best network.

        Args:
          kept: steps of the checkpoints on disk.
        """
        self._watch.wait()
        if any(found.every_steps for found in self._instruments.evaluations.values()):
            self.progress.say(self._best.describe(kept))

    def _networks(self, state: TrainState) -> dict[str, Variables]:
        """Variables by role."""
        return {**state.networks, **self._frozen}

    def _is_last(self, step: int) -> bool:
        return step == self._recipe.total_steps

    def _write(self, step: int, record: Metrics) -> None:
        """Writes and diagnoses the numbers of a step, then draws the report with them."""
        if record:
            self._writer.write(step, record)
            self._diagnosis.add(step, record)
        if self._instruments.show_pictures(step, self._is_last(step)):
            self._showcase.update_report()

    def _log(self, step: int) -> Metrics:
        """Prints a line if it is due; returns all numbers since the previous line."""
        if step % self._config.runtime.log_every_steps and not self._is_last(step):
            return {}
        record = self._watch.catch_up() | self._recipe.schedule_values(step)
        columns = {"loss": record["loss"]}
        for name in self._recipe.objectives:
            if f"{name}/relative_teacher_entropy" in record:
                share = record[f"{name}/relative_teacher_entropy"]
                columns[f"{name} H/lnK" if "H/lnK" in columns else "H/lnK"] = share
        lap = self.progress.log(step, {**columns, "lr": record["lr"]})
        return record | self._throughput.describe(lap)

    def _evaluate(self, step: int, networks: Mapping[str, Variables]) -> Metrics:
        """Prints and returns the results of due evaluations, and looks at the probes."""
        last = self._is_last(step)
        due = self._instruments.due(step, last)
        shown = self._instruments.show_pictures(step, last)
        if due or shown:
            self._watch.wait()
        results: Metrics = {}
        for evaluation in due:
            with self.progress.pause("evaluation"):
                results |= evaluation(step, networks)
        self._say(results, f"step {step}" if step else "before training")
        if shown:
            self._showcase.look(step, networks[self._instruments.evaluated])
        return results

    def _say(self, results: Metrics, when: str) -> None:
        for name, value in results.items():
            shown = f"{value:.1f} %" if re.search(r"(^|/)knn\d", name) else f"{value:.3g}"
            self.progress.say(f"{name}: {shown} ({when})")
