"""Curves as SVG, and which curve stands in which chart."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from etils import epath

from dino_jax.report.chart import Axis, Reference, Series, choose_scale, draw_chart, thin
from dino_jax.report.curves import collect_series, draw_sections
from dino_jax.report.history import Curve, Run
from dino_jax.report.panels import SECTIONS, generic_section

NAN = float("nan")


def make_curve(values, every=10):
    return Curve(every * np.arange(1, len(values) + 1), np.array(values, float))


def make_run(name="a", config=None, **curves):
    known = {key.replace("__", "/"): make_curve(values) for key, values in curves.items()}
    return Run(name, epath.Path("/runs") / name, known, [], config or {}, [])


def find_panel(title):
    return next(p for section in SECTIONS for p in section.panels if p.title == title)


def draw(series, axis=Axis(), references=(), last_step=40):  # noqa: B008
    return ET.fromstring(draw_chart("t", series, axis, references, last_step))


def test_a_curve_goes_from_its_first_point_to_its_last():
    svg = draw([Series("x", make_curve([0.0, 1.0, 2.0, 4.0]), 0)])
    (path,) = [p for p in svg.iter("path") if p.get("class") == "line c0 d0"]
    points = [tuple(map(float, p.split())) for p in re.split("[ML]", path.get("d"))[1:]]
    # 360 wide with 44 and 10 around, 214 high with 16 and 34 around, steps 0 to 40, values 0 to 4.
    expected = [(44 + 306 * s / 40, 16 + 164 * (1 - v / 4)) for s, v in [(10, 0), (40, 4)]]
    np.testing.assert_allclose([points[0], points[-1]], expected, atol=0.06)
    assert len(points) == 4


def test_numbers_that_are_not_finite_leave_a_gap_and_a_mark():
    svg = draw([Series("x", make_curve([1, 2, NAN, 3, 4]), 0)], last_step=50)
    classes = [p.get("class") for p in svg.iter("path")]
    assert classes.count("line c0 d0") == 2
    assert classes.count("lost") == 1


def test_thinning_keeps_order_extremes_and_the_limit():
    values = np.random.default_rng(0).normal(size=5000)
    values[1234], values[4321] = 50.0, -50.0
    steps, thinned = thin(np.arange(5000), values, 240)
    assert len(steps) <= 240 and np.all(np.diff(steps) > 0)
    assert thinned.max() == 50.0 and thinned.min() == -50.0
    np.testing.assert_array_equal(values[steps], thinned)


def test_a_reference_within_reach_widens_the_axis_and_one_beyond_is_left_out():
    series = [Series("x", make_curve([2.0, 4.0]), 0)]
    assert choose_scale(series, Axis(), [Reference("r", 5.5)]).high >= 5.5
    assert choose_scale(series, Axis(), [Reference("r", 7.0)]).high < 7
    texts = [t.text for t in draw(series, references=[Reference("far", 7.0)]).iter("text")]
    assert "far" not in texts


def test_an_axis_is_logarithmic_only_for_positive_numbers_over_a_power_of_ten():
    assert not choose_scale([Series("x", make_curve([1, 9]), 0)], Axis(log=True), []).log
    assert choose_scale([Series("x", make_curve([0.1, 90]), 0)], Axis(log=True), []).log
    assert not choose_scale([Series("x", make_curve([0, 90]), 0)], Axis(log=True), []).log


def test_one_run_has_a_color_for_every_curve_and_several_have_one_for_every_run():
    curves = dict(knn10__teacher=[1, 2], knn10__student=[2, 3], knn10__raw_pixels=[9])
    curves |= dict(knn10__frozen_teacher=[4])
    panel = find_panel("k-NN accuracy")
    baselines = [(line.label, line.value) for line in panel.references(make_run(**curves))]
    assert baselines == [("raw pixels, k = 10", 9), ("frozen teacher, k = 10", 4)]
    alone = collect_series(panel, [make_run(**curves)])
    assert [(s.label, s.color, s.dash) for s in alone] == [
        ("student, k = 10", 0, 0),
        ("teacher, k = 10", 1, 0),
    ]
    both = collect_series(panel, [make_run("a", **curves), make_run("b", **curves)])
    assert [(s.label, s.color, s.dash) for s in both] == [
        ("a, student, k = 10", 0, 0),
        ("a, teacher, k = 10", 0, 1),
        ("b, student, k = 10", 1, 0),
        ("b, teacher, k = 10", 1, 1),
    ]


def test_frozen_roles_of_the_config_are_references_and_others_are_curves():
    roles = {"big": {"follow": "frozen"}, "frozen_teacher": {"follow": "averages"}}
    curves = dict(knn10__big=[4], knn10__frozen_teacher=[2, 3], knn10__raw_pixels_too=[1, 2])
    run = make_run(config={"roles": roles}, **curves)
    panel = find_panel("k-NN accuracy")
    assert [line.label for line in panel.references(run)] == ["big, k = 10"]
    assert [series.label for series in collect_series(panel, [run])] == [
        "frozen teacher, k = 10",
        "raw pixels too, k = 10",
    ]
    assert "Other metrics" not in draw_sections([run])


def test_the_loss_of_the_only_objective_is_not_drawn_twice():
    panel = find_panel("Loss")
    same = make_run(loss=[3, 2], dino__loss=[3, 2])
    assert [s.label for s in collect_series(panel, [same])] == [""]
    two = make_run(loss=[3, 2], dino__loss=[2, 1], ibot__loss=[1, 1])
    assert [s.label for s in collect_series(panel, [two])] == ["total", "dino", "ibot"]


def test_every_curated_metric_stands_in_one_chart_and_others_in_one_of_their_own():
    names = ["loss", "lr", "grad_norm", "images_per_second", "weight_decay", "teacher_momentum"]
    names += ["skipped_steps", "skipped_in_a_row", "unreadable_images", "knn10/teacher"]
    names += [f"norm/backbone/{kind}" for kind in ("grad", "update", "param")]
    dino = ("loss", "global_loss", "local_loss", "teacher_entropy", "mean_teacher_entropy")
    names += [f"dino/{name}" for name in (*dino, "teacher_temperature")]
    dino = ("relative_teacher_entropy", "relative_mean_teacher_entropy", "kl", "center_norm")
    names += [f"dino/{name}" for name in (*dino, "used_prototypes", "top_prototype_share")]
    names += ["health/effective_rank", "health/feature_std", "health/student_teacher_cosine"]
    names += ["proxy/rankme", "proxy/agreement", "proxy/stability", "time/hours"]
    names += ["time/hours_left", "time/data_wait_share", "time/peak_memory_gib"]
    names += ["time/images_per_second_per_device"]
    panels = [panel for section in SECTIONS for panel in section.panels]
    for name in names:
        assert len([p.title for p in panels if p.label(name) is not None]) == 1, name
    others = generic_section([*names, "new/thing", "a+b"])
    assert [panel.title for panel in others.panels] == ["a+b", "new/thing"]
    assert others.panels[0].label("a+b") == ""


def test_entropies_are_drawn_in_nats_only_without_their_shares():
    nats, share = {"dino__teacher_entropy": [3, 2]}, {"dino__relative_teacher_entropy": [0.6, 0.5]}
    assert "Entropy of the teacher</h3>" in draw_sections([make_run(**nats)])
    both = draw_sections([make_run(**nats, **share)])
    assert "Entropy of the teacher</h3>" not in both and "teacher / ln K</h3>" in both


def test_ln_k_is_a_reference_of_the_loss():
    config = {"network": {"heads": {"dino": {"out_dim": 256}}}}
    html = draw_sections([make_run(config=config, loss=[5.4, 5.0, 4.0])])
    assert "ln K = 5.55" in html


def test_what_never_changes_is_named_in_a_line_and_not_drawn():
    html = draw_sections([make_run(weight_decay=[0.04, 0.04], lr=[1e-3, 5e-4])])
    assert "The same at every step: Weight decay <b>0.04</b>" in html
    assert html.count("<svg") == 2  # the chart of the learning rate and its swatch


@pytest.mark.parametrize("values", [[1.0], [NAN, NAN, 2.0], [0.0, 0.0, NAN], [1e-30, 1e30]])
def test_short_and_strange_curves_are_drawn(values):
    ET.fromstring("<x>" + draw_sections([make_run(loss=values, odd=values)]) + "</x>")


def test_a_metric_without_any_number_is_not_drawn():
    assert "odd" not in draw_sections([make_run(loss=[1.0, 2.0], odd=[NAN, NAN])])
