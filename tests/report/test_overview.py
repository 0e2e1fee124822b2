"""Key figures of a run."""

import numpy as np
import pytest
from etils import epath

from dino_jax.report.history import Curve, Run
from dino_jax.report.overview import draw_facts
from dino_jax.run.best import Best

STEPS = (10, 20, 30)
ACCURACY = {
    "knn10/teacher": (70.0, 80.0, 75.0),
    "knn10/student": (90.0, 60.0, 65.0),
    "knn10/ema": (50.0, 52.0, 54.0),
    "knn20/ema": (10.0, 99.0, 11.0),
}


def make_run(config, names):
    curves = {name: Curve(np.array(STEPS), np.array(ACCURACY[name])) for name in names}
    return Run("a", epath.Path("/runs/a"), curves, [], config, [])


@pytest.mark.parametrize(
    ("config", "names", "expected"),
    [
        ({}, ["knn10/student", "knn10/teacher"], "80.0 % teacher, k = 10, step 20"),
        ({}, ["knn10/student"], "90.0 % student, k = 10, step 10"),
        (
            {"evaluated": "student"},
            ["knn10/student", "knn10/teacher"],
            "90.0 % student, k = 10, step 10",
        ),
        (
            {"evaluated": "ema"},
            ["knn10/ema", "knn10/student", "knn20/ema"],
            "54.0 % ema, k = 10, step 30",
        ),
        ({"evaluated": "ema"}, ["knn10/student"], "90.0 % student, k = 10, step 10"),
    ],
)
def test_the_best_accuracy_is_that_of_the_best_checkpoint(config, names, expected):
    run = make_run(config, names)
    value, below = expected.split(" % ")
    html = draw_facts([run])
    assert f"<span>{value} %</span><small>{below}</small>" in html
    best = Best(config.get("evaluated", "teacher"))
    for i, step in enumerate(STEPS):
        best.add(step, {name: ACCURACY[name][i] for name in names})
    assert below.endswith(f"step {best.step}") and best.value == float(value)


def test_without_an_accuracy_of_the_evaluated_role_or_the_student_there_is_no_tile():
    run = make_run({"evaluated": "student"}, ["knn10/teacher"])
    assert "Best k-NN accuracy" not in draw_facts([run])
