"""Which metrics stand in which chart; metrics that no chart knows get one of their own."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from dino_jax.report.chart import Axis, Reference
from dino_jax.report.history import Run

PLAIN = Axis()
RAW_PIXELS = r"knn(\d+)/raw_pixels"  # a reference, no curve


def ln_prototypes(run: Run) -> list[Reference]:
    """The entropy of the uniform distribution over the prototypes of each head."""
    heads = run.config.get("network", {}).get("heads", {})
    sizes = {head.get("out_dim") for head in heads.values() if isinstance(head, dict)}
    return [
        Reference(f"ln K = {math.log(size):.2f}", math.log(size))
        for size in sorted(size for size in sizes if isinstance(size, int) and size > 1)
    ]


def raw_pixels(run: Run) -> list[Reference]:
    """The k-NN accuracy of the pixels themselves, where it was measured."""
    return [
        Reference(f"raw pixels, k = {match[1]}", float(curve.values[-1]))
        for name, curve in run.curves.items()
        if (match := re.fullmatch(RAW_PIXELS, name))
    ]


def nothing(run: Run) -> list[Reference]:
    """No references."""
    del run
    return []


@dataclass(frozen=True)
class Panel:
    """One chart.

    Attributes:
      title: headline.
      pattern: of the metrics that belong to it.
      series: template of a series' name with groups of the pattern, as `re.Match.expand` takes it.
      note: how to read it, one sentence.
      axis: the vertical one.
      references: the lines of a run to compare with.
    """

    title: str
    pattern: str
    series: str = ""
    note: str = ""
    axis: Axis = PLAIN
    references: Callable[[Run], list[Reference]] = nothing

    def label(self, metric: str) -> str | None:
        """The name of the series, "" for the only one; None if the metric is of another panel."""
        match = re.fullmatch(self.pattern, metric)
        return match.expand(self.series).replace("_", " ").strip() if match else None


@dataclass(frozen=True)
class Section:
    """A headline with its panels."""

    title: str
    panels: Sequence[Panel]


SECTIONS = (
    Section(
        "Quality of the features",
        (
            Panel(
                "k-NN accuracy",
                r"knn(\d+)/(?!raw_pixels)(.+)",
                r"\2, k = \1",
                "Held-out images classified by their nearest training images. "
                "The only use of labels.",
                Axis("%"),
                raw_pixels,
            ),
        ),
    ),
    Section(
        "Objective",
        (
            Panel(
                "Loss",
                r"loss|(.+)/loss",
                r"\1",
                "Says little about quality. A plateau at ln K is collapse to the uniform "
                "distribution, a fall to 0 collapse to one prototype.",
                references=ln_prototypes,
            ),
            Panel(
                "Loss by kind of crop",
                r"(?:dino/)?(global|local)_loss",
                r"\1",
                "Pairs with a global and with a local crop of the student.",
            ),
            Panel(
                "Entropy of the teacher",
                r"(?:dino/)?(.*)(?<!mean_)teacher_entropy",
                r"\1",
                "Of single images: near ln K the teacher is undecided, near 0 it names one.",
                Axis("nats", low=0.0),
                ln_prototypes,
            ),
            Panel(
                "Entropy of the mean teacher",
                r"(?:dino/)?(.*)mean_teacher_entropy",
                r"\1",
                "Of the mean over a batch: near ln K all prototypes are in use, near 0 one.",
                Axis("nats", low=0.0),
                ln_prototypes,
            ),
        ),
    ),
    Section(
        "Schedules",
        (
            Panel("Learning rate", "lr", axis=Axis(low=0.0)),
            Panel("Weight decay", "weight_decay"),
            Panel("Momentum of the teacher", "teacher_momentum"),
            Panel("Temperature of the teacher", r"(?:dino/)?(.*)teacher_temperature", r"\1"),
        ),
    ),
    Section(
        "Optimization",
        (
            Panel(
                "Norm of the gradient",
                "grad_norm",
                note="Of the whole student, before clipping.",
                axis=Axis(log=True),
            ),
            Panel("Gradients by group", "norm/(.+)/grad", r"\1", axis=Axis(log=True)),
            Panel("Updates by group", "norm/(.+)/update", r"\1", axis=Axis(log=True)),
            Panel("Parameters by group", "norm/(.+)/param", r"\1", axis=Axis(log=True)),
            Panel(
                "Skipped steps",
                "skipped_steps|skipped_(in_a_row)",
                r"\1",
                "Steps whose loss or gradient was not finite.",
            ),
        ),
    ),
    Section(
        "Throughput and memory",
        (
            Panel(
                "Speed",
                "images_per_second",
                note="While training, without evaluations and checkpoints.",
                axis=Axis("images/s", low=0.0),
            ),
            Panel("Unreadable images", "unreadable_images", note="Since the log line before."),
        ),
    ),
)


def generic_section(metrics: Iterable[str]) -> Section:
    """One panel for each metric that no curated panel shows."""
    known = [panel for section in SECTIONS for panel in section.panels]
    others = [
        name
        for name in metrics
        if all(panel.label(name) is None for panel in known) and not re.fullmatch(RAW_PIXELS, name)
    ]
    return Section("Other metrics", [Panel(name, re.escape(name)) for name in sorted(set(others))])
