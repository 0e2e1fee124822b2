"""Results of an evaluation: a file for programs, a table for people."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from etils import epath

from dino_jax.weights.suffixes import SUFFIXES
from dino_jax.workdir.checkpointing import checkpoint_steps
from dino_jax.workdir.layout import EVALUATIONS
from dino_jax.workdir.paths import absolute_path, write_atomically

MOST_NAMED = 100  # unreadable images in a result
WIDEST = 80  # characters of a setting on the console


@dataclass(frozen=True)
class Result:
    """One evaluation of one model.

    Attributes:
      metrics: metrics under the papers' names, in percent where the papers use percent; finite.
      settings: settings as plain values: sizes, numbers of images, options of the
        protocol, images that could not be read.
    """

    metrics: dict[str, float]
    settings: dict[str, Any]


def find_step(checkpoint: str, step: int | None) -> int | None:
    """The step of a workdir to evaluate, the newest by default; None for other weights."""
    if step is not None or checkpoint.endswith(SUFFIXES):
        return step
    return next(iter(checkpoint_steps(checkpoint)), None)


def result_folder(checkpoint: str, step: int | None, out: str) -> epath.Path:
    """Folder of the results for some weights.

    Args:
      checkpoint: workdir of a run, or file of weights.
      step: from `find_step`.
      out: folder given by the user; "" for WORKDIR/eval/STEP, and FILE.eval beside a
        file of weights.
    """
    if out:
        return absolute_path(out)
    place = absolute_path(checkpoint)
    if checkpoint.endswith(SUFFIXES):
        return place.parent / f"{place.stem}.eval"
    return place / EVALUATIONS / str(step)


def write_result(folder: epath.Path, protocol: str, model: str, result: Result) -> epath.Path:
    """Writes FOLDER/PROTOCOL.json, whole or not at all; an older one is replaced.

    Args:
      folder: created if needed.
      protocol: name of the evaluation.
      model: title of the evaluated model.
      result: its result.

    Raises:
      OSError: if it can't be written.
      ValueError: if a number is not finite, or a setting is not a plain value.
    """
    path = folder / f"{protocol}.json"
    content = {"protocol": protocol, "model": model, **asdict(result)}
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)
    return path


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= WIDEST else f"{text[:WIDEST]} … (see the file)"


def describe_result(protocol: str, model: str, result: Result) -> str:
    """Settings, then a table of the metrics, as text."""
    lines = [f"{protocol} of {model}"]
    lines += [f"  {name}: {_short(value)}" for name, value in result.settings.items()]
    width = max(len(name) for name in result.metrics)
    lines += [f"{name:{width}}  {value:8.3f}" for name, value in result.metrics.items()]
    return "\n".join(lines)
