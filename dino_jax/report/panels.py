"""The charts and their metrics; each metric that no chart lists gets a chart of its own."""

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dino_jax.report.chart import Axis, Reference
from dino_jax.report.history import Run

PLAIN, FROM_ZERO, LOGARITHMIC = Axis(), Axis(low=0.0), Axis(log=True)
SHARE = Axis(low=0.0, high=1.0)
KNN = r"knn(\d{1,9})/(.+)"


def ln_prototypes(run: Run) -> list[Reference]:
    """The entropy of the uniform distribution over the prototypes of each head."""
    heads = run.table("network", "heads")
    sizes = [run.option("network", "heads", name, "out_dim") for name in heads]
    known = {size for size in sizes if isinstance(size, int) and size > 1}
    return [Reference(f"ln K = {math.log(size):.2f}", math.log(size)) for size in sorted(known)[:5]]


def baselines(run: Run) -> list[Reference]:
    """The k-NN accuracy of the pixels and of frozen roles, where measured."""
    return [
        Reference(f"{match[2].replace('_', ' ')}, k = {match[1]}", float(curve.values[-1]))
        for name, curve in run.curves.items()
        if (match := match_baseline(run, name))
    ]


def match_baseline(run: Run, metric: str) -> re.Match[str] | None:
    """Matches k and name of an accuracy that is measured once: a reference, not a curve."""
    match = re.fullmatch(KNN, metric)
    return match if match and match[2] in {"raw_pixels", *_frozen_roles(run)} else None


def _frozen_roles(run: Run) -> list[str]:
    roles = run.table("roles")
    if not roles:  # no config, or one of version 0.1 that has not been upgraded
        return ["frozen_teacher"]
    known = {name: role for name, role in roles.items() if isinstance(role, dict)}
    return [name for name, role in known.items() if role.get("follow") == "frozen"]


def nothing(run: Run) -> list[Reference]:
    """No references."""
    del run
    return []


_compiled = functools.cache(re.compile)  # re keeps 512, and a run may have more metrics


@dataclass(frozen=True)
class Panel:
    """One chart.

    Attributes:
      title: headline.
      pattern: pattern of its metrics.
      series: template of a series' name with groups of the pattern, as `re.Match.expand` takes it.
      note: how to read it, one sentence.
      axis: the vertical axis.
      references: the lines of a run to compare with.
      unless: pattern of metrics that make the chart superfluous.
      unnamed: name of the series without one, where there are others.
      only: the only metric that can match, if it is known; a run may have thousands.
    """

    title: str
    pattern: str
    series: str = ""
    note: str = ""
    axis: Axis = PLAIN
    references: Callable[[Run], list[Reference]] = nothing
    unless: str | None = None
    unnamed: str = ""
    only: str | None = None

    def candidates(self, metrics: Mapping[str, Any]) -> Iterable[str]:
        """Metrics that may match."""
        if self.only is None:
            return metrics
        return [self.only] if self.only in metrics else []

    def superfluous(self, metrics: Iterable[str]) -> bool:
        """Whether another panel shows the same better."""
        return self.unless is not None and any(re.fullmatch(self.unless, m) for m in metrics)

    def label(self, metric: str) -> str | None:
        """The name of the series, "" for the only one; None if the metric has another panel."""
        match = _compiled(self.pattern).fullmatch(metric)
        return match.expand(self.series).replace("_", " ").strip() if match else None


@dataclass(frozen=True)
class Section:
    """A headline with its panels."""

    title: str
    panels: Sequence[Panel]


QUALITY = (
    Panel(
        "k-NN accuracy",
        KNN,
        r"\2, k = \1",
        "Held-out images classified by their nearest training images. The only use of labels.",
        Axis("%"),
        baselines,
    ),
    Panel(
        "RankMe of held-out images",
        "proxy/rankme",
        note="Effective rank of the teacher's features. Compare runs of one width only.",
    ),
    Panel(
        "Views that find their image",
        r"views/retrieval/(.+)|proxy/retrieval",
        r"\1",
        "Random parts of held-out images, each among those of all images.",
        Axis("%"),
    ),
    Panel(
        "LiDAR of held-out images",
        r"views/lidar/(.+)",
        r"\1",
        "Effective rank of what tells images apart whatever the view.",
    ),
    Panel(
        "Decay of the eigenvalues",
        "proxy/decay",
        note="Exponent of a power law of the features' covariance; large: few directions matter.",
    ),
    Panel(
        "Agreement about neighbors",
        "proxy/(agreement|stability)",
        r"\1",
        "Agreement of student and teacher; stability of the teacher since the previous evaluation.",
        SHARE,
    ),
    Panel(
        "Neighbours kept since the start",
        r"agreement(\d+)/(.+)",
        r"\2, k = \1",
        "Share of an image's nearest neighbors that it had at the start. A jump is damage.",
        SHARE,
    ),
    Panel(
        "Patches that find their place",
        r"dense/match/(.+)",
        r"\1",
        "Of held-out images, in their enlarged central part. Falling while k-NN rises: time for "
        "Gram anchoring.",
        Axis("%"),
    ),
    Panel(
        "Cosine of patches and cls",
        r"dense/cls_cosine/(.+)",
        r"\1",
        "Of held-out images. Rising towards 1: patches turn into copies of the cls token.",
    ),
    Panel(
        "Effective rank in the batch",
        "health/effective_rank",
        note="Of the teacher's features; 1 is complete collapse.",
        axis=FROM_ZERO,
    ),
    Panel(
        "Spread of the features",
        "health/feature_std",
        note="Relative to their size; at 0 all images have the same features.",
        axis=FROM_ZERO,
    ),
    Panel(
        "Cosine of student and teacher",
        "health/student_teacher_cosine",
        note="For the same crop; if it is 1 from the start, nothing is learned.",
    ),
)

TARGETS = (
    Panel(
        "Loss",
        r"loss|(.+)/loss",
        r"\1",
        "Says little about quality. A plateau at ln K is collapse to the uniform "
        "distribution, a fall to 0 collapse to one prototype.",
        references=ln_prototypes,
        unnamed="total",
    ),
    Panel(
        "Loss by kind of crop",
        r"(?:dino/)?(global|local)_loss",
        r"\1",
        "Pairs with a global and with a local crop of the student.",
    ),
    Panel(
        "KL of teacher and student",
        "(?:dino|(.+))/kl",
        r"\1",
        "Cross-entropy minus the entropy of the teacher; near 0 nothing is left to learn from.",
        Axis("nats", low=0.0),
    ),
    Panel(
        "Entropy of the teacher / ln K",
        "(?:dino|(.+))/relative_(mean_)?teacher_entropy",
        r"\1 \2",
        "Of single images: at 1 undecided, at 0 sure. Of their mean: at 0 all share a prototype.",
        SHARE,
        unnamed="single images",
    ),
    Panel(
        "Entropy of the teacher",
        "(?:dino|(.+))/(mean_)?teacher_entropy",
        r"\1 \2",
        "Near ln K undecided, near 0 sure; the mean of a batch near 0 is collapse.",
        Axis("nats", low=0.0),
        ln_prototypes,
        unless="(.+)/relative_teacher_entropy",
        unnamed="single images",
    ),
    Panel(
        "Prototypes in use",
        "(?:dino|(.+))/used_prototypes",
        r"\1",
        "Prototypes that are the first choice of at least one target in the batch.",
        FROM_ZERO,
    ),
    Panel(
        "Share of the most frequent prototype",
        "(?:dino|(.+))/top_prototype_share",
        r"\1",
        "1 is collapse to one prototype.",
        FROM_ZERO,
    ),
    Panel("Norm of the center", "(?:dino|(.+))/center_norm", r"\1", axis=FROM_ZERO),
)

OPTIMIZATION = (
    Panel("Learning rate", "lr", axis=FROM_ZERO),
    Panel("Weight decay", "weight_decay"),
    Panel("Momentum of the teacher", "teacher_momentum"),
    Panel("Temperature of the teacher", "(?:dino|(.+))/teacher_temperature", r"\1"),
    Panel(
        "Norm of the gradient",
        "grad_norm",
        note="Of the whole student, before clipping.",
        axis=LOGARITHMIC,
    ),
    Panel("Gradients by module", "norm/(.+)/grad", r"\1", axis=LOGARITHMIC),
    Panel(
        "Updates by module",
        "norm/(.+)/update",
        r"\1",
        "About a thousandth of the parameters at the peak of the learning rate.",
        LOGARITHMIC,
    ),
    Panel("Parameters by module", "norm/(.+)/param", r"\1", axis=LOGARITHMIC),
    Panel(
        "Skipped steps",
        "skipped_steps|skipped_(in_a_row)",
        r"\1",
        "Steps whose loss or gradient was not finite.",
        unnamed="total",
    ),
)

THROUGHPUT = (
    Panel(
        "Speed",
        "images_per_second|time/images_per_second_(per_device)",
        r"\1",
        "While training, without evaluations and checkpoints.",
        Axis("images/s", low=0.0),
        unnamed="all devices",
    ),
    Panel(
        "Waiting for data",
        "time/data_wait_share",
        note="Share of the time in which the devices had no batch to work on.",
        axis=FROM_ZERO,
    ),
    Panel("Peak memory of a device", "time/peak_memory_gib", axis=Axis("GiB", low=0.0)),
    Panel("Hours", "time/hours(?:_(left))?", r"\1", axis=FROM_ZERO, unnamed="done"),
    Panel("Unreadable images", "unreadable_images", note="Since the previous log line."),
)

SECTIONS = (
    Section("Quality of the features", QUALITY),
    Section("Loss and targets", TARGETS),
    Section("Schedules and optimization", OPTIMIZATION),
    Section("Throughput and memory", THROUGHPUT),
)


def generic_section(metrics: Iterable[str]) -> Section:
    """One panel for each metric that no curated panel shows."""
    known = [panel for section in SECTIONS for panel in section.panels]
    others = [name for name in metrics if all(panel.label(name) is None for panel in known)]
    return Section(
        "Other metrics", [Panel(name, re.escape(name), only=name) for name in sorted(set(others))]
    )
