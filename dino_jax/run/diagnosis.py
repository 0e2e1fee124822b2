"""A verdict from the numbers of a run: a named state, its evidence, and the option to change.

`RULES` is one table, from the worst state to the mildest; the first rule that finds evidence in all
of the newest records decides. A record is a line of metrics.jsonl; docs/metrics.md explains its
numbers. The thresholds lie between the provoked failures and the healthy runs of tests/histories.
"""

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

Record = Mapping[str, Any]
Severity = Literal["ok", "warning", "failure"]

WINDOW = 4  # newest log lines that have to agree
LEAST = 2  # of them at the end of a run that has no more
INFORMATION = 0.05  # nats that a target carries about its image; at most ln of a batch's targets
UNIFORM = 0.9  # entropy of a target as a share of ln K
ONE_DIMENSION = 1.5  # effective rank
ONE_POINT = -0.05  # uniformity: a mean squared distance of about 0.025 on the unit sphere
HOT = 0.08  # teacher temperature
DIVERGED = 1.25  # cross-entropy, in ln K
LARGE_UPDATE = 0.03  # norm of an update relative to that of the parameters
SLOWEST = 1e-5  # 1 - momentum: a teacher that needs 100,000 steps to follow
WAITING = 0.2  # share of the time


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """A verdict about a run.

    Attributes:
      state: name, such as "uniform_collapse".
      title: the same in words.
      evidence: the numbers behind it.
      advice: what to change, "" if nothing.
      severity: "failure" if the run does not get better by itself.
    """

    state: str
    title: str
    evidence: str
    advice: str
    severity: Severity


class History:
    """What the rules need of the log lines of a run, however many there were.

    Attributes:
      first_step: step of the first line; None before it.
      lines: the newest lines, and the one before them.
      count: number of all lines.
      largest_update: largest update of all lines, relative to the backbone's parameters; 0 if
        unknown.
      window: newest lines that have to agree.
    """

    def __init__(self, grace_steps: int):
        """Begins without lines.

        Args:
          grace_steps: steps at the start whose features and targets are not meaningful yet.
        """
        self.first_step: int | None = None
        self.lines: deque[Record] = deque(maxlen=WINDOW + 1)
        self.count, self.grace_steps = 0, grace_steps
        self.largest_update, self.window = 0.0, WINDOW
        self._momenta = 0.0  # sum over all lines; NaN once it is missing
        self._settled: deque[Record] = deque(maxlen=WINDOW)

    def add(self, record: Record) -> None:
        """Takes the next record; those without a loss (evaluations) do not count."""
        if "loss" not in record:
            return
        if self.first_step is None:
            self.first_step = record["step"]
        self.lines.append(record)
        self.count += 1
        momentum = record.get("teacher_momentum")
        self._momenta += math.nan if momentum is None else momentum
        if record["step"] > self.grace_steps:
            self._settled.append(record)
        update, param = (record.get(f"norm/backbone/{name}") for name in ("update", "param"))
        if update and param:
            self.largest_update = max(self.largest_update, update / param)

    def end(self) -> None:
        """Takes it that no more lines come: a short run is judged by those that it has."""
        self.window = max(LEAST, len(self._settled))

    def newest(self, name: str) -> list[float]:
        """A metric of the newest `window` lines; [] if one of them does not have it."""
        return self._column(list(self.lines)[-self.window :], name)

    def settled(self, name: str) -> list[float]:
        """The same of lines after the first `grace_steps` only."""
        return self._column(self._settled, name)

    def mean_momentum(self) -> float | None:
        """Mean momentum of the teacher; None if a line does not have it, or there are too few."""
        known = self.count >= self.window and math.isfinite(self._momenta)
        return self._momenta / self.count if known else None

    def is_short(self) -> bool:
        """Whether there are too few lines for a verdict."""
        return len(self._settled) < self.window

    def _column(self, lines: Collection[Record], name: str) -> list[float]:
        """A metric of all lines; [] if there are fewer than `window`, or one is missing."""
        values = [line.get(name) for line in lines]
        finite = [value for value in values if value is not None and math.isfinite(value)]
        return finite if len(finite) == len(values) >= self.window else []

    def objectives(self, number: str = "relative_teacher_entropy") -> list[str]:
        """Names of the objectives that log a number; by default that of targets over prototypes."""
        suffix = f"/{number}"
        return [name.removesuffix(suffix) for name in self.lines[-1] if name.endswith(suffix)]


Finding = Callable[[History], str | None]


@dataclasses.dataclass(frozen=True)
class Rule:
    """One row of the table.

    Attributes:
      find: returns the evidence for the state, or None.
      source: source of the threshold.
    """

    state: str
    title: str
    severity: Severity
    find: Finding
    advice: str
    source: str


def diagnose(history: History) -> Diagnosis:
    """The state of a run after the newest record."""
    if history.lines:
        for rule in RULES:
            evidence = rule.find(history)
            if evidence:
                return Diagnosis(rule.state, rule.title, evidence, rule.advice, rule.severity)
    if history.is_short():
        needed = f"a verdict needs {history.window} after step {history.grace_steps}"
        seen = f"{history.count} log lines; {needed}"
        return Diagnosis("too_early", "Too early to say", seen, "", "ok")
    return Diagnosis("healthy", "Healthy", _summary(history), "", "ok")


def _skipped(history: History) -> str | None:
    counts = [record.get("skipped_steps") for record in history.lines]
    counts = [count for count in counts if count is not None]
    if not counts:
        return None
    before = counts[0] if len(history.lines) > WINDOW else 0
    if counts[-1] <= before:
        return None
    return f"{counts[-1] - before:.0f} of the steps of the last {WINDOW} log lines were skipped"


def _diverged(history: History) -> str | None:
    for name in history.objectives():
        losses, log_k = history.settled(f"{name}/loss"), _log_prototypes(history, name)
        if losses and min(losses) > DIVERGED * log_k:
            return f"{name} loss {_range(losses)}: worse than guessing (ln K = {log_k:.2f})"
    collapse, update = _one_dimension(history), history.largest_update
    if collapse and update > LARGE_UPDATE:
        return f"one update was {100 * update:.1f} % of the backbone's parameters; {collapse}"
    return None


def _frozen(history: History) -> str | None:
    mean = history.mean_momentum()
    if mean is None or 1 - mean > SLOWEST:
        return None
    newest = history.lines[-1]["teacher_momentum"]
    return f"momentum {newest:.6g} since step {history.first_step}"


def _hot(history: History) -> str | None:
    for name in history.objectives():
        temperatures = history.settled(f"{name}/teacher_temperature")
        if temperatures and min(temperatures) > HOT and _is_uniform(history, name):
            return f"{_uninformative(history, name)}; teacher temperature {temperatures[-1]:.3g}"
    return None


def _uniform(history: History) -> str | None:
    for name in history.objectives():
        if _is_uniform(history, name):
            losses, log_k = history.settled(f"{name}/loss"), _log_prototypes(history, name)
            return f"{_uninformative(history, name)}; loss {_range(losses)} (ln K = {log_k:.4f})"
    return None


def _one_prototype(history: History) -> str | None:
    for name in history.objectives():
        evidence, shares = (
            _uninformative(history, name),
            history.settled(f"{name}/top_prototype_share"),
        )
        if evidence and shares and not _is_uniform(history, name):
            return f"{evidence}; {_range(shares)} of them have the same largest prototype"
    return None


def _is_uniform(history: History, name: str) -> bool:
    entropies = history.settled(f"{name}/relative_teacher_entropy")
    return bool(_uninformative(history, name)) and min(entropies) > UNIFORM


def _uninformative(history: History, name: str) -> str | None:
    """Evidence that all images have the same target, whichever it is.

    The entropy of the mean target minus the mean entropy is a target's information about its
    image (their mutual information); it needs no threshold that depends on K.
    """
    means = history.settled(f"{name}/mean_teacher_entropy")
    entropies = history.settled(f"{name}/teacher_entropy")
    relative = history.settled(f"{name}/relative_teacher_entropy")
    told = [a - b for a, b in zip(means, entropies, strict=False)]
    if not told or not relative or max(told) > INFORMATION:
        return None
    return (
        f"{name} targets carry {max(told):.2g} nats about their image; their entropy is "
        f"{_range(relative)} ln K"
    )


def _one_point(history: History) -> str | None:
    """Evidence that all images have the same projection: the trivial solution of BYOL, SimDINO."""
    for name in history.objectives("uniformity"):
        values = history.settled(f"{name}/uniformity")
        if values and min(values) > ONE_POINT:
            losses = history.settled(f"{name}/loss")
            loss = f"; loss {_range(losses)}" if losses else ""
            return f"{name} uniformity {_range(values)} of the projections{loss}"
    return None


def _one_dimension(history: History) -> str | None:
    ranks, spreads = (
        history.settled(f"health/{name}") for name in ("effective_rank", "feature_std")
    )
    if not ranks or max(ranks) > ONE_DIMENSION:
        return None
    spread = f", std {_range(spreads)} of their rms" if spreads else ""
    return f"effective rank {_range(ranks)} of the cls features{spread}"


def _waiting(history: History) -> str | None:
    shares = history.newest("time/data_wait_share")
    if not shares or min(shares) < WAITING:
        return None
    return f"the devices wait for data {_range(shares)} of the time"


RULES = (
    Rule(
        "not_finite",
        "Steps are skipped: numbers are not finite",
        "warning",
        _skipped,
        "Lower config.optimizer.lr, set config.optimizer.clip_grad, or use "
        "config.network.dtype='float32'.",
        "facebookresearch/dino issues 58, 97, 263",
    ),
    Rule(
        "divergence",
        "Diverged",
        "failure",
        _diverged,
        "Lower config.optimizer.lr or lengthen config.optimizer.warmup_epochs, in a new workdir.",
        "ln K is the loss of a student that knows nothing; healthy updates are about 0.1 %",
    ),
    Rule(
        "teacher_frozen",
        "The teacher does not change",
        "failure",
        _frozen,
        "Lower config.roles.teacher.momentum: 0.996 at the start, 0.9995 for small batches.",
        "arXiv:2104.14294, Section 5.2: the teacher must follow; facebookresearch/dino issue 224",
    ),
    Rule(
        "temperature_too_high",
        "The teacher's temperature is too high",
        "failure",
        _hot,
        "Lower the teacher_temperature of the objective to 0.04 (up to 0.07 after a warm-up).",
        "arXiv:2104.14294, Section 5.3 and appendix D: collapse above 0.06 without warm-up",
    ),
    Rule(
        "uniform_collapse",
        "Collapse to the uniform distribution",
        "failure",
        _uniform,
        "Lower the objective's teacher_temperature (0.02), raise "
        "config.optimizer.freeze_last_layer_epochs, lower config.optimizer.lr, or use "
        "batch_norm in the head for a very small model.",
        "arXiv:2104.14294, Section 5.3 (entropy ln K); facebookresearch/dino issues 43, 246, 273",
    ),
    Rule(
        "one_prototype_collapse",
        "Collapse to one prototype",
        "failure",
        _one_prototype,
        "Let the center follow: the objective's center_momentum=0.9, or centering='sinkhorn'; a "
        "higher teacher_temperature flattens the targets.",
        "arXiv:2104.14294, Section 5.3: without centering one dimension dominates",
    ),
    Rule(
        "one_point_collapse",
        "All images have the same projection",
        "failure",
        _one_point,
        "Lower config.optimizer.lr, keep batch_norm in the heads, and raise the momentum of a "
        "teacher towards 1; for SimDINO lower the objective's cosine_weight.",
        "uniformity of arXiv:2005.10242, Eq. 4, is 0 if all are equal; BYOL, arXiv:2006.07733, "
        "Section 5 and appendix F: it collapses without its predictor or its average",
    ),
    Rule(
        "dimensional_collapse",
        "Features collapse to a line",
        "failure",
        _one_dimension,
        "Lower config.optimizer.weight_decay or lr, or add config.objectives.koleo.",
        "RankMe, arXiv:2210.02885; dimensional collapse, arXiv:2110.09348",
    ),
    Rule(
        "input_bound",
        "The devices wait for data",
        "warning",
        _waiting,
        "Raise config.runtime.workers, use config.augment.backend='device', or pack the images "
        "with dino-jax build.",
        "a share of 0.2 makes a run a quarter longer than necessary",
    ),
)


def _summary(history: History) -> str:
    shown = {"loss": "loss", "health/effective_rank": "effective rank"}
    for name in history.objectives():
        shown[f"{name}/relative_teacher_entropy"] = f"{name} teacher entropy / ln K"
    for name in history.objectives("uniformity"):
        shown[f"{name}/accuracy"] = f"{name} accuracy"
        shown[f"{name}/uniformity"] = f"{name} uniformity"
    columns = {title: history.settled(name) for name, title in shown.items()}
    return ", ".join(f"{title} {values[-1]:.3g}" for title, values in columns.items() if values)


def _log_prototypes(history: History, name: str) -> float:
    """ln K, which records do not hold directly."""
    newest = history.lines[-1]
    entropy, share = (newest.get(f"{name}/{x}teacher_entropy") for x in ("", "relative_"))
    return entropy / share if entropy and share else math.inf


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"
