"""Diagnoses of recorded runs and of single numbers.

tests/histories/NAME.jsonl.gz holds what the rules read of the metrics.jsonl of quickstart runs with
--config.runtime.log_every_steps=10: "healthy0" to 2 with seeds 0, 1, 2 (the whole run, and two of
300 steps), and one for each provoked failure:

  momentum1      teacher.momentum and momentum_end 1
  temp1          teacher_temperature and warmup_teacher_temperature 1
  nobn           no BatchNorm in the head
  nocenter_nobn  the same, and center_momentum 0.99999, so that the center stays 0
  lr100          optimizer.lr 0.4, a hundred times the quickstart's
"""

import gzip
import json
import math
from pathlib import Path

import pytest

from dino_jax.run import diagnosis
from dino_jax.run.diagnosis import RULES, WINDOW, History

HISTORIES = Path(__file__).parents[1] / "histories"
GRACE = 50  # steps of the quickstart's first epoch
HEALTHY = sorted(path.name.split(".")[0] for path in HISTORIES.glob("healthy*"))
PROVOKED = {
    "momentum1": "teacher_frozen",
    "temp1": "temperature_too_high",
    "nobn": "uniform_collapse",
    "nocenter_nobn": "one_prototype_collapse",
    "lr100": "divergence",
}


def read(name, every=10):
    """Lines of a recorded run as if it had logged every so many steps."""
    text = gzip.decompress((HISTORIES / f"{name}.jsonl.gz").read_bytes()).decode()
    records = [json.loads(line) for line in text.splitlines()]
    return [record for record in records if record["step"] % every == 0]


def diagnose(records, grace):
    """The verdict after all of the records."""
    history = History(grace)
    for record in records:
        history.add(record)
    return diagnosis.diagnose(history)


def states(records, grace=GRACE):
    """The state after each of the records."""
    return [diagnose(records[: n + 1], grace).state for n in range(len(records))]


@pytest.mark.parametrize("name", PROVOKED)
def test_a_provoked_failure_is_named_and_stays_named(name):
    records = read(name)
    found = states(records)
    assert set(found) <= {"too_early", "healthy", PROVOKED[name]}
    first = found.index(PROVOKED[name])
    assert set(found[first:]) == {PROVOKED[name]}
    assert records[first]["step"] <= 160
    verdict = diagnose(records, GRACE)
    assert verdict.severity == "failure" and verdict.evidence and verdict.advice


@pytest.mark.parametrize("every", [10, 50])
@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_gives_no_alarm_however_often_it_logs(name, every):
    found = states(read(name, every))
    assert set(found) == {"too_early", "healthy"}
    assert found[-1] == "healthy"


def test_three_healthy_runs_are_on_record():
    assert len(HEALTHY) == 3


def line(step, **changes):
    """A log line of a healthy run."""
    numbers = {
        "loss": 4.0,
        "skipped_steps": 0.0,
        "teacher_momentum": 0.99,
        "dino/loss": 4.0,
        "dino/teacher_entropy": 0.5 * math.log(256),
        "dino/relative_teacher_entropy": 0.5,
        "dino/mean_teacher_entropy": 0.9 * math.log(256),
        "dino/teacher_temperature": 0.04,
        "dino/top_prototype_share": 0.1,
        "health/effective_rank": 10.0,
        "health/feature_std": 0.4,
        "norm/backbone/update": 0.03,
        "norm/backbone/param": 30.0,
        "time/data_wait_share": 0.0,
    }
    return {"step": step} | numbers | changes


def run_of(count, **changes):
    return [line(10 * n, **changes) for n in range(1, count + 1)]


def test_there_is_no_verdict_before_enough_lines_after_the_grace():
    assert diagnose([], 0).state == "too_early"
    assert diagnose([{"step": 0, "knn10/teacher": 42.0}], 0).state == "too_early"
    uniform = {"dino/relative_teacher_entropy": 1.0, "dino/teacher_entropy": math.log(256)}
    uniform |= {"dino/mean_teacher_entropy": math.log(256)}
    records = run_of(5 + WINDOW, **uniform)
    assert states(records, grace=50) == ["too_early"] * (4 + WINDOW) + ["uniform_collapse"]


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "healthy"),
        ({"time/data_wait_share": 0.3}, "input_bound"),
        ({"time/data_wait_share": 0.1}, "healthy"),
        ({"dino/loss": 8.0}, "divergence"),
        ({"health/effective_rank": 1.2}, "dimensional_collapse"),
        ({"health/effective_rank": 1.2, "norm/backbone/update": 3.0}, "divergence"),
        ({"norm/backbone/update": 3.0}, "healthy"),
        ({"teacher_momentum": 0.999999}, "teacher_frozen"),
        ({"teacher_momentum": 0.9996}, "healthy"),
    ],
)
def test_single_numbers_decide(changes, state):
    assert diagnose(run_of(8, **changes), 0).state == state


def test_a_momentum_that_ends_at_1_is_no_frozen_teacher():
    records = [line(10 * n, teacher_momentum=min(0.99 + n / 1000, 1.0)) for n in range(40)]
    assert diagnose(records, 0).state == "healthy"


def test_skipped_steps_are_a_warning_until_they_are_past():
    before, after = run_of(6), [line(10 * n, skipped_steps=2.0) for n in range(7, 7 + WINDOW)]
    found = [diagnose(before + after[:n], 0) for n in range(1, WINDOW + 1)]
    assert {(d.state, d.severity) for d in found} == {("not_finite", "warning")}
    assert "2 of the steps" in found[0].evidence
    assert diagnose([*before, *after, line(200, skipped_steps=2.0)], 0).state == "healthy"


def test_a_number_that_is_not_finite_decides_nothing():
    records = [*run_of(6), line(70, loss=None, **{"health/effective_rank": float("nan")})]
    assert diagnose(records, 0).state == "healthy"


def test_two_objectives_are_told_apart():
    same = {"ibot/relative_teacher_entropy": 0.3, "ibot/teacher_entropy": 1.66}
    same |= {"ibot/mean_teacher_entropy": 1.66, "ibot/top_prototype_share": 1.0}
    verdict = diagnose(run_of(8, **same), 0)
    assert verdict.state == "one_prototype_collapse" and verdict.evidence.startswith("ibot")


def test_a_long_history_takes_no_more_room_than_a_short_one():
    history, sizes = History(0), set()
    for record in run_of(50):
        history.add(record)
        sizes.add(len(history.lines) + len(history._settled))
    assert max(sizes) == 2 * WINDOW + 1 and history.count == 50


def test_a_line_without_momentum_keeps_the_teacher_from_being_called_frozen():
    records = run_of(8, teacher_momentum=0.999999)
    assert diagnose(records, 0).state == "teacher_frozen"
    records[2] = {name: x for name, x in records[2].items() if name != "teacher_momentum"}
    assert diagnose(records, 0).state == "healthy"


def contrastive(name, step, **changes):
    """A log line of a healthy run of SimCLR, BYOL or MoCo v3, which has no targets."""
    own = {"loss": 2.0, "accuracy": 0.8, "alignment": 0.4, "uniformity": -3.0} | changes
    if name == "byol":
        del own["accuracy"]
    kept = {key: x for key, x in line(step).items() if not key.startswith("dino/")}
    if name == "simclr":
        del kept["teacher_momentum"]
    return kept | {f"{name}/{key}": x for key, x in own.items()}


@pytest.mark.parametrize("name", ["simclr", "byol", "mocov3"])
@pytest.mark.parametrize(
    ("uniformity", "state"),
    [(-3.0, "healthy"), (-0.5, "healthy"), (-0.01, "one_point_collapse")],
)
def test_projections_of_one_point_are_named_by_their_uniformity(name, uniformity, state):
    records = [contrastive(name, 10 * n, uniformity=uniformity) for n in range(1, 9)]
    verdict = diagnose(records, 0)
    assert verdict.state == state
    spoken = f"{verdict.evidence} {verdict.advice}"
    assert f"{name} uniformity {uniformity:.3g}" in spoken
    assert "entropy" not in spoken and "prototype" not in spoken
    assert ("accuracy" in spoken) == (state == "healthy" and name != "byol")


def test_every_rule_has_a_source_and_says_what_to_do():
    assert all(rule.advice and rule.source for rule in RULES)
    assert len({rule.state for rule in RULES}) == len(RULES)
