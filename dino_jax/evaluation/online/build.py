"""The kinds of evaluation, and those of a run.

A kind is a file (or an object) with

  Config  frozen dataclass of its options, as `base.EvaluationConfig` or derived from it
  IMAGES  {name of a section with images: what they are}, the held-out ones last; {} for none
  GUARDS  whether `build` gives a `base.Guarding`, which `config.guard.evaluation` may name
  check   (where, config, context): raises a ValueError if something does not fit, opens nothing
  build   (where, config, context) -> `base.Evaluation`: opens its images

and one row in `EVALUATIONS`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dino_jax.config.section import suggest
from dino_jax.data.sources import is_given
from dino_jax.evaluation.online import agreement, dense, gain, knn, proxies, views
from dino_jax.evaluation.online.base import Context, Evaluation, Metrics, Variables

EVALUATIONS: dict[str, Any] = {
    "knn": knn,
    "proxies": proxies,
    "agreement": agreement,
    "dense": dense,
    "views": views,
    "gain": gain,
}


@dataclass(frozen=True)
class Scheduled:
    """An evaluation of a run.

    Attributes:
      evaluation: evaluation that measures.
      every_steps: steps between two measurements; 0: never by itself.
      prefix: prefix of the names of its metrics, "" or "NAME/".
    """

    evaluation: Evaluation
    every_steps: int
    prefix: str

    def due(self, step: int, last: bool) -> bool:
        """Whether it measures after a step; the last one of the run counts."""
        return bool(self.every_steps) and (last or step % self.every_steps == 0)

    def __call__(self, step: int, networks: Mapping[str, Variables]) -> Metrics:
        """The evaluation's metrics under their names in the run."""
        return {self.prefix + name: x for name, x in self.evaluation(step, networks).items()}

    def own(self, metrics: Metrics) -> Metrics:
        """The metrics of a run that belong to this evaluation, under its own names."""
        start = self.prefix
        return {name[len(start) :]: x for name, x in metrics.items() if name.startswith(start)}


def build_evaluations(config: Any, context: Context, steps_per_epoch: int) -> dict[str, Scheduled]:
    """Builds the evaluations of a run, including the one of its guard.

    Of several evaluations of one kind, one uses the plain names of its metrics: the one with the
    name of the kind, else the alphabetically first. The names of the others begin with "NAME/".

    Args:
      config: the whole config.
      context: context of the run.
      steps_per_epoch: steps per epoch of the run.

    Raises:
      ValueError: as in `check_evaluations`, and if something does not fit the images.
      OSError: if images are missing.
    """
    check_evaluations(config, context)
    built, plain = {}, set()
    for name in sorted(config.evaluations, key=lambda name: _rank(name, config)):
        entry = config.evaluations[name]
        if not (_is_used(name, config) and has_images(entry)):
            continue
        evaluation = EVALUATIONS[entry.kind].build(_where(name), entry, context)
        prefix = f"{name}/" if entry.kind in plain else ""
        plain.add(entry.kind)
        built[name] = Scheduled(evaluation, every_steps(entry, steps_per_epoch), prefix)
    return built


def check_evaluations(config: Any, context: Context) -> None:
    """Runs the checks that need no images.

    Args:
      config: the whole config.
      context: context of the run.

    Raises:
      ValueError: if a kind is unknown, an evaluation has some of its images only, or a number does
        not fit the devices or the networks.
    """
    for name, entry in config.evaluations.items():
        if entry.kind not in EVALUATIONS:
            raise ValueError(
                f"{_where(name)}.kind is {entry.kind!r}; {suggest(entry.kind, EVALUATIONS)}"
            )
        kind, missing = EVALUATIONS[entry.kind], _missing(entry)
        if not _is_used(name, config) or (missing and len(missing) == len(kind.IMAGES)):
            continue
        if missing:
            raise ValueError(
                f"{_where(name)} has only a part of its images; add "
                f"{_describe(missing, name, entry)}"
            )
        kind.check(_where(name), entry, context)


def left_out(config: Any) -> list[str]:
    """A line for each evaluation that has an interval but no images, and how to add them."""
    return [
        f"evaluation  {name} is left out: it needs {_describe(missing, name, entry)}"
        for name, entry in config.evaluations.items()
        if entry.every_epochs and (missing := _missing(entry))
    ]


def every_steps(entry: Any, steps_per_epoch: int) -> int:
    """The interval of an evaluation in steps; 0: never by itself."""
    return math.ceil(entry.every_epochs * steps_per_epoch)


def has_images(entry: Any) -> bool:
    """Whether the config names the images of an evaluation."""
    return not _missing(entry)


def held_out_images(name: str, config: Any) -> tuple[str, Any] | None:
    """Name and section of the held-out images of an evaluation, None if it has none.

    Args:
      name: name of the evaluation.
      config: the whole config.
    """
    entry = config.evaluations[name]
    sections = list(EVALUATIONS[entry.kind].IMAGES)
    if not sections or not has_images(entry):
        return None
    return f"{_where(name)}.{sections[-1]}", getattr(entry, sections[-1])


def check_named(where: str, name: str, config: Any) -> None:
    """Checks that an option names an evaluation of the config.

    Args:
      where: name of the option.
      name: its value.
      config: the whole config.

    Raises:
      ValueError: if there is no such evaluation.
    """
    if name not in config.evaluations:
        known = suggest(name, config.evaluations)
        raise ValueError(f"{where} is {name!r}, but config.evaluations has no such name; {known}")


def image_options(name: str, config: Any) -> str:
    """The options that would give an evaluation the images that it lacks.

    Args:
      name: name of the evaluation.
      config: the whole config.
    """
    entry = config.evaluations[name]
    return _describe(_missing(entry), name, entry)


def _rank(name: str, config: Any) -> tuple[bool, str]:
    return config.evaluations[name].kind != name, name


def _is_used(name: str, config: Any) -> bool:
    guards = config.guard.action != "none" and config.guard.evaluation == name
    return guards or config.evaluations[name].every_epochs > 0


def _where(name: str) -> str:
    return f"config.evaluations.{name}"


def _missing(entry: Any) -> list[str]:
    """Sections of images without images."""
    return [part for part in EVALUATIONS[entry.kind].IMAGES if not is_given(getattr(entry, part))]


def _describe(parts: list[str], name: str, entry: Any) -> str:
    meanings = EVALUATIONS[entry.kind].IMAGES
    return " and ".join(f"{meanings[part]} (--{_where(name)}.{part}.path=FOLDER)" for part in parts)
