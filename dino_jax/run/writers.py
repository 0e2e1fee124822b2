"""Destinations of metrics besides metrics.jsonl: TensorBoard, Weights & Biases, MLflow.

metrics.jsonl is the record of a run; these are copies for people who watch several runs.
A copy that fails is logged and does not stop the run.
"""

import importlib.util
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
from absl import logging
from etils import epath

from dino_jax.commands.hidden_packages import hidden
from dino_jax.workdir.dotted_names import flatten
from dino_jax.workdir.layout import MLFLOW_RUN_ID_TXT, MLRUNS, TENSORBOARD, WANDB_RUN_ID_TXT
from dino_jax.workdir.paths import absolute_path, is_remote
from dino_jax.workdir.side_files import DamagedFileError, read_side_file

PROJECT = "dino_jax"  # of Weights & Biases; experiment of MLflow
MLFLOW_BATCH = 100  # parameters of one request


class Writer(Protocol):
    """Takes the metrics of a run."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes finite numbers; "a/b" is b of group a."""
        ...

    def close(self) -> None:
        """Writes out the rest."""
        ...


class TensorBoardWriter:
    """Events in workdir/tensorboard; steps that a resumed run does again are hidden."""

    def __init__(self, workdir: epath.Path, start_step: int, config: Mapping[str, Any]):
        """Opens a new file of events; for the arguments see `open_writers`."""
        del config
        with hidden("torch"):  # 1.5 s and 180 MB, for tensors that nobody gives it
            from tensorboardX import SummaryWriter

        self._events = SummaryWriter(
            os.fspath(workdir / TENSORBOARD),
            purge_step=start_step + 1 if start_step else 0,
            flush_secs=30,
            # The rest of the name is host and second: a quick restart would overwrite the events.
            filename_suffix=f".{time.time_ns()}",
        )
        # Its thread would end with a traceback at the first error, and the queue fill up.
        self._error: OSError | None = None
        writer: Any = self._events.file_writer
        file = writer.event_writer._ev_writer
        file.write_event, file.flush = map(self._noting, (file.write_event, file.flush))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
        for name, number in metrics.items():
            self._events.add_scalar(name, number, step)

    def close(self) -> None:
        self._events.close()

    def _noting(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def work_or_note(*arguments: Any) -> Any:
            try:
                return work(*arguments)
            except OSError as error:
                self._error = error

        return work_or_note


class WandbWriter:
    """One run of Weights & Biases per workdir, also over restarts.

    WANDB_MODE=offline, WANDB_ENTITY, WANDB_PROJECT and so on work as always; offline files lie in
    workdir/wandb. Their history cannot be undone: steps that a resumed run does again are there
    twice, with the same numbers. Draw over "step".
    """

    def __init__(self, workdir: epath.Path, start_step: int, config: Mapping[str, Any]):
        """Starts or resumes the run; for the arguments see `open_writers`."""
        import wandb  # pyright: ignore[reportMissingImports] (an extra)

        identity = workdir / WANDB_RUN_ID_TXT
        known = _read_identity(identity) if start_step else None
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=workdir.name,
            id=known,
            resume="allow",
            dir=None if is_remote(workdir) else os.fspath(workdir),
            config=dict(config),
        )
        identity.write_text(self._run.id)
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log({"step": step, **metrics})

    def close(self) -> None:
        self._run.finish()


class MlflowWriter:
    """One run of MLflow per workdir, also over restarts.

    The store is given by MLFLOW_TRACKING_URI; without it, files in workdir/mlruns. Steps that a
    resumed run does again are there twice, with the same numbers.
    """

    def __init__(self, workdir: epath.Path, start_step: int, config: Mapping[str, Any]):
        """Starts or resumes the run; for the arguments see `open_writers`."""
        from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]
        from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

        self._metric = Metric
        self._client = MlflowClient(_mlflow_store(workdir))
        identity = workdir / MLFLOW_RUN_ID_TXT
        known = _read_identity(identity) if start_step else None
        if known:
            self._run_id = known
            self._client.set_terminated(self._run_id, "RUNNING")
            return
        found = self._client.get_experiment_by_name(PROJECT)
        experiment = found.experiment_id if found else self._client.create_experiment(PROJECT)
        self._run_id = self._client.create_run(experiment, run_name=workdir.name).info.run_id
        identity.write_text(self._run_id)
        params = [Param(name, str(value)) for name, value in flatten(dict(config)).items()]
        for first in range(0, len(params), MLFLOW_BATCH):
            self._client.log_batch(self._run_id, params=params[first : first + MLFLOW_BATCH])

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        now = round(1000 * time.time())
        entries = [self._metric(name, number, now, step) for name, number in metrics.items()]
        self._client.log_batch(self._run_id, metrics=entries)

    def close(self) -> None:
        self._client.set_terminated(self._run_id)


WRITERS = {"tensorboard": TensorBoardWriter, "wandb": WandbWriter, "mlflow": MlflowWriter}
EXTRAS = ("wandb", "mlflow")  # packages, and the extras of setup.py that bring them


def check_writers(names: Sequence[str]) -> None:
    """Checks that all writers are known and installed, before a run starts.

    Raises:
      ValueError: if one is not; says how to install it.
    """
    unknown = sorted(set(names) - set(WRITERS))
    if unknown:
        raise ValueError(f"unknown runtime.writers {unknown}; known: {sorted(WRITERS)}")
    for name in EXTRAS:
        if name in names and importlib.util.find_spec(name) is None:
            raise ValueError(
                f"runtime.writers names {name!r}, which is not installed: "
                f'pip install "dino_jax[{name}]", or leave it out'
            )


def open_writers(
    names: Sequence[str], workdir: epath.PathLike, start_step: int, config: Mapping[str, Any]
) -> list[Writer]:
    """Opens writers by name; none on processes other than 0.

    Args:
      names: keys of WRITERS.
      workdir: workdir of the run.
      start_step: finished updates from which the run continues; 0 for a new run.
      config: config of the run as plain values, shown beside the metrics.

    Raises:
      ValueError: if a service refuses; names the writer.
    """
    if jax.process_index() != 0:
        return []
    writers = []
    for name in names:
        try:
            writers.append(WRITERS[name](absolute_path(workdir), start_step, config))
        except Exception as error:  # each service has errors of its own
            raise ValueError(f"runtime.writers: {name!r} did not start: {error}") from error
    return writers


def write_to_all(writers: Sequence[Writer], step: int, metrics: Mapping[str, float]) -> None:
    """Gives metrics to all writers; logs those that fail."""
    for writer in writers:
        try:
            writer.write(step, metrics)
        except Exception as error:  # a service that is gone does not stop a run
            logging.warning("%s misses step %d: %s", type(writer).__name__, step, error)


def close_all(writers: Sequence[Writer]) -> None:
    """Closes all writers; logs those that fail."""
    for writer in writers:
        try:
            writer.close()
        except Exception as error:
            logging.warning("%s did not close: %s", type(writer).__name__, error)


def _read_identity(path: epath.Path) -> str | None:
    """The name by which a service knows this run, None if it is unknown or damaged."""

    def parse(text: str) -> str:
        if not re.fullmatch(r"[\w-]{1,128}", text.strip(), re.ASCII):
            raise DamagedFileError(f"{text[:80]!r} is not the name of a run")
        return text.strip()

    return read_side_file(path, parse, None, so="a new run is begun there")


def _mlflow_store(workdir: epath.Path) -> str:
    given = os.environ.get("MLFLOW_TRACKING_URI")
    if given:
        return given
    if is_remote(workdir):
        raise ValueError(f"set MLFLOW_TRACKING_URI: its files cannot lie in {workdir}")
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 asks for this consent
    return (workdir / MLRUNS).as_uri()
