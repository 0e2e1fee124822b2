"""Diagnoses a run while it trains: prints and records changes, ends a collapsed run if asked."""

import dataclasses
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

from etils import epath

from dino_jax.run.diagnosis import Diagnosis, History, diagnose
from dino_jax.run.screen import Progress
from dino_jax.run.watch import LostRunError
from dino_jax.workdir.json_lines import JsonLines, read_json_lines
from dino_jax.workdir.layout import DIAGNOSIS_JSONL


class CollapsedRunError(LostRunError):
    """The diagnosis is a failure, and the config asks to stop then."""


class DiagnosisLog:
    """Diagnoses after every record; a context manager that also records why a run gives up.

    All processes come to the same verdict, since they have the same records, and stop together;
    process 0 writes `workdir/diagnosis.jsonl`: {"step": 400, "state": "healthy", …} whenever the
    state changes.
    """

    def __init__(
        self,
        folder: epath.Path,
        start_step: int,
        history: Iterable[Mapping[str, Any]],
        progress: Progress,
        *,
        grace_steps: int,
        total_steps: int,
        stop_on_collapse: bool,
    ):
        """Continues from the verdicts up to `start_step`.

        Args:
          folder: workdir.
          start_step: finished updates.
          history: records of metrics.jsonl up to `start_step`.
          progress: the screen.
          grace_steps: see `History`.
          total_steps: updates of the whole run; after the last one there is a verdict, if only of
            the lines that there are.
          stop_on_collapse: whether a failure ends the run.
        """
        path = folder / DIAGNOSIS_JSONL
        earlier = read_json_lines(path, start_step, is_verdict)
        self._lines = JsonLines(path, start_step, is_verdict)
        self._state = earlier[-1]["state"] if earlier else "too_early"
        self._history, self._step = History(grace_steps), start_step
        for record in history:
            self._history.add(record)
        self._progress, self._total_steps = progress, total_steps
        self._stop_on_collapse = stop_on_collapse

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of finished update `step`.

        Raises:
          CollapsedRunError: if they show a failure and the config asks to stop then.
        """
        self._history.add({"step": step, **metrics})
        self._step = step
        diagnosis = diagnose(self._history)
        short = step == self._total_steps and "loss" in metrics and diagnosis.state == "too_early"
        if short:
            self._history.end()
            diagnosis = diagnose(self._history)
        if diagnosis.state != self._state:
            self._note(diagnosis)
        if self._stop_on_collapse and diagnosis.severity == "failure" and not short:
            raise CollapsedRunError(
                f"{diagnosis.title} at step {step} (config.runtime.stop_on_collapse): "
                f"{diagnosis.evidence}. {diagnosis.advice}"
            )

    def __enter__(self) -> "DiagnosisLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, LostRunError) and not isinstance(error, CollapsedRunError):
            self._append(Diagnosis("given_up", "Given up", str(error), "", "failure"))

    def _note(self, diagnosis: Diagnosis) -> None:
        self._state = diagnosis.state
        self._append(diagnosis)
        advice = f". {diagnosis.advice}" if diagnosis.advice else ""
        self._progress.say(f"diagnosis   {diagnosis.title}: {diagnosis.evidence}{advice}")

    def _append(self, diagnosis: Diagnosis) -> None:
        self._lines.append({"step": self._step, **dataclasses.asdict(diagnosis)})


def is_verdict(record: Mapping[str, Any]) -> bool:
    """Whether a line holds a diagnosis."""
    names = (field.name for field in dataclasses.fields(Diagnosis))
    return all(isinstance(record.get(name), str) for name in names)
