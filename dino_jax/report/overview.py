"""The overview: key figures, and changes in the state of a run."""

import re
from collections.abc import Callable, Sequence

import numpy as np

from dino_jax.report.history import Curve, Diagnosis, Run, is_number
from dino_jax.report.markup import Markup, element, join
from dino_jax.report.panels import KNN
from dino_jax.report.scales import format_count, format_value

LONGEST_FIGURE = 10  # characters that fit into a tile in large type
SIGNS = {"ok": "●", "warning": "▲", "failure": "■"}

Fact = tuple[str, str]  # the figure and the small text below it


def draw_facts(runs: Sequence[Run]) -> Markup:
    """Key figures: tiles of one run, a table of several."""
    if len(runs) == 1:
        known = {title: fact for title, find in FACTS.items() if (fact := find(runs[0]))}
        tiles = [
            element("div", element("dt", title), element("dd", _figure(figure), _below(below)))
            for title, (figure, below) in known.items()
        ]
        return element("dl", *tiles, class_="facts")
    rows = [(title, [find(run) for run in runs]) for title, find in FACTS.items()]
    head = [element("th", "", scope="col")]
    head += [element("th", _swatch(i), run.name, scope="col") for i, run in enumerate(runs)]
    body = [
        element("tr", element("th", title, scope="row"), *(_cell(fact) for fact in facts))
        for title, facts in rows
        if any(facts)
    ]
    table = element(
        "table", element("thead", element("tr", *head)), element("tbody", *body), class_="compared"
    )
    return element("div", table, class_="scroll")


def draw_diagnosis(runs: Sequence[Run]) -> Markup | None:
    """A band of states over the steps of every run that has a diagnosis, and their explanations."""
    known = [run for run in runs if run.diagnosis]
    if not known:
        return None
    parts = [_timeline(run, named=len(runs) > 1) for run in known]
    return element("section", element("h2", "Diagnosis"), *parts)


def _cell(fact: Fact | None) -> Markup:
    if fact is None:
        return element("td", "\u2013")
    return element("td", element("b", fact[0]), " ", element("span", fact[1], class_="soft"))


def _figure(text: str) -> Markup:
    return element("span", text, class_="long" if len(text) > LONGEST_FIGURE else None)


def _below(text: str) -> Markup:
    return element("small", text)


def _swatch(index: int) -> Markup:
    return element("span", "", class_=f"swatch c{index % 8}")


def _timeline(run: Run, named: bool) -> Markup:
    ends = [entry.step for entry in run.diagnosis[1:]] + [max(run.last_step, 1)]
    spans = [max(end - one.step, 0) for one, end in zip(run.diagnosis, ends, strict=True)]
    before = run.diagnosis[0].step
    band = [element("i", style=f"flex:{before}", class_="unknown")] if before else []
    band += [
        element("i", style=f"flex:{span}", class_=one.severity, title=one.title)
        for one, span in zip(run.diagnosis, spans, strict=True)
    ]
    return join(
        element("h3", run.name) if named else None,
        element("div", *band, class_="band", aria_hidden="true"),
        element("ol", *(_state(one) for one in run.diagnosis), class_="states"),
    )


def _state(one: Diagnosis) -> Markup:
    return element(
        "li",
        element("span", SIGNS[one.severity], class_=f"sign {one.severity}", title=one.severity),
        element("span", f"step {format_count(one.step)}", class_="soft"),
        element(
            "div",
            element("b", one.title or one.state),
            element("p", one.evidence) if one.evidence else None,
            element("p", one.advice, class_="soft") if one.advice else None,
        ),
    )


def _progress(run: Run) -> Fact | None:
    batch_size = run.option("batch_size")
    known = is_number(batch_size) and batch_size > 0
    images = f"{format_count(run.last_step * batch_size)} images" if known else "finished"
    return f"{format_count(run.last_step)}", images


def _best_knn(run: Run) -> Fact | None:
    """The best of the evaluated role, without one of the student; as run/best.py chooses."""
    evaluated = str(run.option("evaluated") or "teacher")
    role = next((role for role in (evaluated, "student") if _knn_curves(run, role)), None)
    if role is None:
        return None
    k, curve = min(_knn_curves(run, role).items())
    if not len(curve.finite()):
        return None
    best = int(np.flatnonzero(curve.values == np.nanmax(curve.values))[-1])
    where = f"{role}, k = {k}, step {format_count(curve.steps[best])}"
    return f"{curve.values[best]:.1f} %", where


def _knn_curves(run: Run, role: str) -> dict[int, Curve]:
    """The accuracies of a role by k."""
    matches = ((re.fullmatch(KNN, name), curve) for name, curve in run.curves.items())
    return {int(match[1]): curve for match, curve in matches if match and match[2] == role}


def _loss(run: Run) -> Fact | None:
    return _newest_and_first(run, "loss")


def _speed(run: Run) -> Fact | None:
    curve = run.curves.get("images_per_second")
    if curve is None or not len(curve.finite()):
        return None
    return format_value(float(np.median(curve.finite()))), "images/s, median"


def _state_now(run: Run) -> Fact | None:
    if not run.diagnosis:
        return None
    now = run.diagnosis[-1]
    return f"{SIGNS[now.severity]} {now.title or now.state}", f"since step {format_count(now.step)}"


def _newest_and_first(run: Run, name: str) -> Fact | None:
    curve = run.curves.get(name)
    if curve is None or not len(curve.finite()):
        return None
    first = format_value(float(curve.finite()[0]))
    return format_value(float(curve.values[-1])), f"at first {first}"


def _time(run: Run) -> Fact | None:
    hours = run.curves.get("time/hours")
    if hours is None or not len(hours.finite()):
        return None
    minutes = round(60 * float(hours.finite()[-1]))
    return f"{minutes // 60}:{minutes % 60:02d} h", "including restarts"


FACTS: dict[str, Callable[[Run], Fact | None]] = {
    "State": _state_now,
    "Steps": _progress,
    "Best k-NN accuracy": _best_knn,
    "Loss": _loss,
    "Speed": _speed,
    "Time": _time,
}
