"""The metrics, diagnosis and config of a workdir, read tolerantly."""

import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from etils import epath

from dino_jax.config.upgrade import upgrade
from dino_jax.foreign.json_text import read_json
from dino_jax.report.thinning import read_thinned
from dino_jax.workdir.json_lines import read_history
from dino_jax.workdir.layout import CONFIG_JSON, DIAGNOSIS_JSONL, METRICS_JSONL

MAX_CONFIG_BYTES = 1 << 24
# Numbers that can be shown: float32 ends at 3.4e38, and differences must stay finite.
LARGEST, SMALLEST = 1e100, 1e-100
MOST_METRICS, LONGEST_NAME = 500, 200  # of a run on the page; characters
MOST_STATES, LONGEST_TEXT = 200, 2000  # of the diagnosis; characters
SEVERITIES = ("ok", "warning", "failure")


@dataclass(frozen=True)
class Curve:
    """One metric over a run.

    Attributes:
      steps: [n] ascending, each once.
      values: [n] float64; NaN where the number was not finite or too large to be shown.
    """

    steps: np.ndarray
    values: np.ndarray

    def finite(self) -> np.ndarray:
        """The values that are numbers."""
        return self.values[np.isfinite(self.values)]


@dataclass(frozen=True)
class Diagnosis:
    """A state that a run entered after `step` updates; `severity` is one of SEVERITIES."""

    step: int
    state: str
    title: str
    evidence: str
    advice: str
    severity: str


@dataclass(frozen=True)
class Run:
    """One workdir, read.

    Attributes:
      name: distinguishes it from the other runs of the report.
      folder: the workdir.
      curves: curves by metric name, sorted.
      diagnosis: changes of the state, ascending steps; empty if there is no such file.
      config: config.json in today's form, as it is if that fails; {} if there is none.
      notes: notes for the reader about what could not be read.
    """

    name: str
    folder: epath.Path
    curves: dict[str, Curve]
    diagnosis: list[Diagnosis]
    config: dict[str, Any]
    notes: list[str]

    @cached_property
    def last_step(self) -> int:
        return max(int(curve.steps[-1]) for curve in self.curves.values())

    def option(self, *names: str) -> Any:
        """What the config has under these names; None if it, damaged or of a later version, hasn't.

        Args:
          names: such as "network", "backbone".
        """
        found: Any = self.config
        for name in names:
            found = found.get(name) if isinstance(found, dict) else None
        return found

    def table(self, *names: str) -> dict[str, Any]:
        """A section of the config; {} if there is none."""
        found = self.option(*names)
        return found if isinstance(found, dict) else {}


def read_runs(workdirs: Sequence[epath.PathLike]) -> list[Run]:
    """Reads several workdirs; see `read_run`."""
    folders = [epath.Path(workdir).expanduser() for workdir in workdirs]
    folders = [f if "://" in os.fspath(f) else f.absolute() for f in folders]
    return [
        read_run(folder, name)
        for folder, name in zip(folders, distinct_names(folders), strict=True)
    ]


def read_run(folder: epath.Path, name: str) -> Run:
    """Reads one workdir, which may belong to a run that is still writing.

    Args:
      folder: workdir, local or gs://.
      name: name of the run in the report.

    Raises:
      FileNotFoundError: if there is no such folder or it has no metrics.
      ValueError: if none of the lines of metrics.jsonl can be read.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"workdir {os.fspath(folder)!r} does not exist; give the --workdir of a run"
        )
    path = folder / METRICS_JSONL
    if not path.exists():
        found = sorted(child.name for child in folder.iterdir())[:10]
        raise FileNotFoundError(
            f"{os.fspath(folder)!r} holds no {METRICS_JSONL}, so it is not the workdir of a run "
            f"that has measured anything; found there: {found or 'nothing'}"
        )
    lines, torn, count = read_thinned(path)
    every = build_curves(lines)
    short = {name: curve for name, curve in every.items() if len(name) <= LONGEST_NAME}
    curves = dict(itertools.islice(short.items(), MOST_METRICS))
    if not curves:
        raise ValueError(
            f"{path} has no line with metrics ({len(torn)} unreadable lines); wait until the run "
            "has logged a step"
        )
    notes = [f"{METRICS_JSONL}: torn lines left out: {_few(torn)}"] if torn else []
    if len(every) > len(curves):
        notes.append(f"{METRICS_JSONL}: {len(curves):,} of {len(every):,} metrics are shown")
    if count > len(lines):
        notes.append(
            f"{METRICS_JSONL}: drawn from {len(lines):,} of {count:,} lines, evenly chosen"
        )
    config = _read_config(folder / CONFIG_JSON, notes)
    diagnosis = _read_diagnosis(folder / DIAGNOSIS_JSONL, notes)
    return Run(name, folder, curves, diagnosis, config, notes)


def build_curves(lines: Iterable[Mapping[str, Any]]) -> dict[str, Curve]:
    """Curves of all metrics of a history; of two numbers for one step, the later one counts."""
    points: dict[str, dict[int, float]] = {}
    for line in lines:
        for name, value in line.items():
            if name != "step" and _is_metric(value):
                points.setdefault(name, {})[line["step"]] = _as_float(value)
    return {
        name: Curve(np.array(list(points[name])), np.array(list(points[name].values())))
        for name in sorted(points)
    }


def distinct_names(folders: Sequence[epath.Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart; equal paths are numbered."""
    parts = [[part for part in os.fspath(folder).split("/") if part] for folder in folders]
    longest = max(len(p) for p in parts)
    names: list[str] = []
    for length in range(1, longest + 1):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({index})" for index, name in enumerate(names, start=1)]


def _read_config(path: epath.Path, notes: list[str]) -> dict[str, Any]:
    try:
        config = read_json(path, MAX_CONFIG_BYTES)
    except FileNotFoundError:
        notes.append(f"there is no {CONFIG_JSON}")
        return {}
    except (OSError, ValueError):
        config = None
    if isinstance(config, dict):
        return _upgrade(config)
    notes.append(f"{CONFIG_JSON} cannot be read")
    return {}


def _upgrade(config: dict[str, Any]) -> dict[str, Any]:
    """Today's form, so that runs of different versions can be compared."""
    try:
        return upgrade(config)
    except (ValueError, LookupError, TypeError, AttributeError):  # damaged, or of a later version
        return config


def _read_diagnosis(path: epath.Path, notes: list[str]) -> list[Diagnosis]:
    if not path.exists():
        return []
    try:
        lines, torn = read_history(path)
    except OSError:
        notes.append(f"{DIAGNOSIS_JSONL} cannot be read")
        return []
    if len(lines) > MOST_STATES:
        notes.append(f"{DIAGNOSIS_JSONL}: the last {MOST_STATES} of {len(lines):,} are shown")
    if torn:
        notes.append(f"{DIAGNOSIS_JSONL}: torn lines left out: {_few(torn)}")
    found = []
    for line in lines[-MOST_STATES:]:
        parts = {key: line.get(key, "") for key in ("state", "title", "evidence", "advice")}
        texts = {key: str(part)[:LONGEST_TEXT] for key, part in parts.items()}
        severity = line.get("severity")
        known = severity if severity in SEVERITIES else "warning"
        found.append(Diagnosis(line["step"], severity=known, **texts))
    return found


def is_number(value: Any) -> bool:
    """Whether a value of JSON can be shown as a number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _is_metric(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _as_float(value: float | None) -> float:
    if value is None or not abs(value) <= LARGEST:
        return math.nan
    return float(value) if abs(value) >= SMALLEST else 0.0


def _few(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:10])
    return shown + (f" and {len(numbers) - 10} more" if len(numbers) > 10 else "")
