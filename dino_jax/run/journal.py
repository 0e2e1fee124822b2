"""What a run finds out and writes about itself: numbers, evaluations, pictures, a diagnosis."""

import contextlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath
from jax.sharding import Mesh

from dino_jax.data.sources import ImageSource
from dino_jax.evaluation.online import OnlineEvaluation
from dino_jax.run.best import Best
from dino_jax.run.diagnosis_log import DiagnosisLog
from dino_jax.run.first_step import FirstStep
from dino_jax.run.guard import Guard
from dino_jax.run.metrics_file import MetricsWriter
from dino_jax.run.profile import Profile
from dino_jax.run.screen import Progress
from dino_jax.run.showcase import Showcase
from dino_jax.run.throughput import Throughput
from dino_jax.run.watch import Watch
from dino_jax.run.writers import open_writers
from dino_jax.step.recipe import Recipe
from dino_jax.step.train_state import TrainState, Variables
from dino_jax.visualize.probes import Probes
from dino_jax.workdir.config_json import config_to_json
from dino_jax.workdir.json_lines import read_json_lines
from dino_jax.workdir.layout import METRICS_JSONL

Metrics = dict[str, float]
FROZEN_TEACHER = "frozen_teacher"  # in the names of metrics


class Instruments(NamedTuple):
    """What looks at the networks of a run from time to time.

    Attributes:
      evaluation: how good the features are; None: never.
      frozen_evaluation: the same of the frozen teacher of a distillation, None for none.
      every_steps: between two evaluations; 0: never.
      probes: images that are looked at in every evaluation, None for none.
      guard: against a teacher that gets worse than the model that it started from.
    """

    evaluation: OnlineEvaluation | None
    frozen_evaluation: OnlineEvaluation | None
    every_steps: int
    probes: Probes | None
    guard: Guard


def build_instruments(config: Any, recipe: Recipe, mesh: Mesh, source: ImageSource) -> Instruments:
    """Opens what the evaluations need.

    Args:
      config: the whole config.
      recipe: of the run.
      mesh: of the devices.
      source: of the training images.

    Raises:
      ValueError: if a value of the config is unknown, out of range or does not fit the images.
      OSError: if images are not there.
    """
    every_steps = math.ceil(config.knn.every_epochs * recipe.steps_per_epoch)
    shown = every_steps and config.probes.count
    return Instruments(
        OnlineEvaluation(config, recipe.network, mesh) if every_steps else None,
        _judge_of_frozen_teacher(config, recipe, mesh) if every_steps else None,
        every_steps,
        Probes(config, recipe.network, mesh, source) if shown else None,
        Guard(config, recipe, mesh),
    )


def _judge_of_frozen_teacher(config: Any, recipe: Recipe, mesh: Mesh) -> OnlineEvaluation | None:
    """k-NN of the frozen teacher of a distillation; without labels nothing is to be compared."""
    if recipe.frozen_teacher is None or config.knn.measure == "proxies":
        return None
    config = config.copy_and_resolve_references()
    config.knn.update(networks=("teacher",), measure="knn")
    return OnlineEvaluation(config, recipe.frozen_teacher, mesh)


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
        """Goes on with what an earlier start wrote up to `start_step`.

        Args:
          folder: workdir.
          start_step: finished updates.
          config: the whole config.
          recipe: of the run.
          source: of the training images.
          instruments: for the evaluations.
          best: learns which teacher is the best so far.
          first_step: of this process; closed with this journal.

        Raises:
          ValueError: if a writer cannot be opened.
          OSError: if files of the workdir cannot be read.
        """
        self._folder, self._start, self._config = folder, start_step, config
        self._recipe, self._source = recipe, source
        self._instruments, self._best, self._first_step = instruments, best, first_step
        self._history = read_json_lines(folder / METRICS_JSONL, start_step)
        for record in self._history:
            best.add(record["step"], record)
        plain_config = json.loads(config_to_json(config))
        self._copies = open_writers(config.runtime.writers, folder, start_step, plain_config)

    def __enter__(self) -> "Journal":
        config, recipe, history = self._config, self._recipe, self._history
        hours_before = max((record.get("time/hours", 0.0) for record in history), default=0.0)
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.closing(self._first_step))
            self._writer = stack.enter_context(
                MetricsWriter(self._folder, self._start, self._copies)
            )
            self._profile = stack.enter_context(
                contextlib.closing(Profile(config.profile.steps, self._folder))
            )
            self._throughput = stack.enter_context(contextlib.closing(Throughput(hours_before)))
            self.progress = stack.enter_context(
                Progress(self._start, recipe.total_steps, config.batch_size)
            )
            # Before the diagnosis, whose last word belongs into the last report.
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
                    stop_on_collapse=config.runtime.stop_on_collapse,
                )
            )
            self._watch = Watch(
                self._source,
                self.progress,
                self._folder,
                max_skipped_in_a_row=config.max_skipped_in_a_row,
                max_unreadable_share=config.max_unreadable_share,
            )
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def begin(
        self, lines: Iterable[str], state: TrainState, resumed: bool, frozen: Variables | None
    ) -> None:
        """Says what the run is, and evaluates the first networks of a new one.

        Args:
          lines: for the screen.
          state: before the first step.
          resumed: whether it comes from a checkpoint of the workdir.
          frozen: variables of the frozen teacher of a distillation.
        """
        for line in lines:
            self.progress.say(line)
        guard = self._instruments.guard
        record = {} if resumed else self._evaluate(0, state) | self._evaluate_frozen(frozen)
        record |= guard.start(self._folder, state.teacher, resumed, record, self.progress)
        if record:
            self._writer.write(0, record)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Goes around everything that makes the next batch."""
        with self._throughput.batch(), self._first_step.batch():
            yield

    def before(self, step: int) -> None:
        """Goes before step number `step`, counted from 1."""
        self._profile.before(step)
        self._first_step.begin()

    def add(self, step: int, metrics: dict[str, jax.Array], unreadable: jax.Array) -> None:
        """Takes the numbers of a step that may still be running.

        Args:
          step: finished updates.
          metrics: of that step, whole on every process.
          unreadable: see `Watch.add`.

        Raises:
          LostRunError: as `Watch.add`.
        """
        if line := self._first_step.end():
            self.progress.say(line)
        self._profile.after(step, metrics)
        self._throughput.started(metrics["loss"])
        self._watch.add(step, metrics, unreadable)
        self.progress.advance(step)

    def record(self, step: int, state: TrainState) -> bool:
        """Logs, evaluates and judges what is due after a step.

        Args:
          step: finished updates.
          state: after them.

        Returns:
          Whether this step is worth a checkpoint.

        Raises:
          LostRunError: if the run is not worth going on with.
          RollBackRequest: if it shall go back.
        """
        every, guard = self._instruments.every_steps, self._instruments.guard
        last = step == self._recipe.total_steps
        record: Metrics = {}
        if last or step % self._config.runtime.log_every_steps == 0:
            record |= self._log(step)
        if every and (last or step % every == 0):
            self._watch.wait()
            record |= self._evaluate(step, state)
        measured = guard.measure(step, state.teacher, record)
        record |= measured
        if record:
            self._writer.write(step, record)
            self._diagnosis.add(step, record)
        if every and step % every == 0:
            self._showcase.update_report()
        good, improved = guard.judge(step, measured), self._best.add(step, record)
        return good or improved

    def finish(self, kept: Sequence[int]) -> None:
        """Waits for the last step and names the best teacher.

        Args:
          kept: steps of the checkpoints on disk.
        """
        self._watch.wait()
        if self._instruments.evaluation:
            self.progress.say(self._best.describe(kept))

    def _log(self, step: int) -> Metrics:
        """Prints one line about finished step `step`; returns all numbers since the line before."""
        record = self._watch.catch_up() | self._recipe.schedule_values(step)
        columns = {"loss": record["loss"]}
        for name in self._recipe.objectives:
            if f"{name}/relative_teacher_entropy" in record:
                share = record[f"{name}/relative_teacher_entropy"]
                columns["H/lnK" if name == "dino" else f"{name} H/lnK"] = share
        lap = self.progress.log(step, {**columns, "lr": record["lr"]})
        return record | self._throughput.describe(lap)

    def _evaluate(self, step: int, state: TrainState) -> Metrics:
        """Prints and returns how good the features are; the first time also the pixels."""
        evaluation = self._instruments.evaluation
        if evaluation is None:
            return {}
        with self.progress.pause("evaluation"):
            results = evaluation.raw_pixels() if step == 0 else {}
            results |= evaluation({"student": state.student, "teacher": state.teacher})
            self._say(results, "before training" if step == 0 else f"step {step}")
        self._showcase.look(step, state.teacher)
        return results

    def _evaluate_frozen(self, frozen: Variables | None) -> Metrics:
        """Prints and returns what the student of a distillation may hope for."""
        evaluation = self._instruments.frozen_evaluation
        if evaluation is None:
            return {}
        with self.progress.pause("evaluation"):
            found = evaluation({"teacher": frozen})
            results = {name.replace("teacher", FROZEN_TEACHER): x for name, x in found.items()}
            self._say(results, "the whole run")
        return results

    def _say(self, results: Metrics, when: str) -> None:
        for name, value in results.items():
            shown = f"{value:.1f} %" if name.startswith("knn") else f"{value:.3g}"
            self.progress.say(f"{name}: {shown} ({when})")
