"""docs/parity.svg and docs/parity.md hold what the recordings hold, and what ours gives today."""

import re

import numpy as np
import pytest

from configs import digits_reference
from tests.benchmarks.parity.__main__ import BEGIN, DOCS, END, KNN, compare_all, make_panels
from tests.benchmarks.parity.comparisons import compare, load
from tests.benchmarks.parity.figure import draw

FIGURE = (DOCS / "parity.svg").read_text()
ROW = re.compile(r"^\| (\w+): (.+) \| `([\w/]+): (.+)` \| ([\d,]+) \| (\S+) \| (\S+) \|$", re.M)


@pytest.fixture(scope="module")
def groups():
    return compare_all()


def marks_of(figure: str, kind: str) -> list[np.ndarray]:
    """Coordinates of the marks of a kind, in order."""
    tags = re.findall(rf'<(?:path|circle)[^>]* class="{kind}"', figure)
    places = [re.findall(r'(?:d|cx|cy)="([^"]+)"', tag) for tag in tags]
    return [np.array(re.findall(r"-?[\d.]+", " ".join(each)), float) for each in places]


def test_every_number_of_ours_is_as_near_to_theirs_as_is_allowed(groups):
    for each in groups.values():
        for x in each:
            assert x.theirs.size and np.isfinite(x.theirs).all(), x.name
            assert x.difference <= x.tolerance, (x.name, x.difference)


def test_the_figure_shows_the_recordings_and_ours(groups):
    drawn = draw(make_panels(groups))
    for kind in ("theirs", "ours"):
        old, new = marks_of(FIGURE, kind), marks_of(drawn, kind)
        assert len(old) == len(new) > 30
        for committed, now in zip(old, new, strict=True):
            np.testing.assert_allclose(committed, now, rtol=0, atol=0.11)  # a tenth of a pixel
    assert len(marks_of(FIGURE, "difference")) == len(marks_of(drawn, "difference"))
    words = re.compile(r"<text[^>]*>[^<]*</text>")
    assert words.findall(FIGURE) == words.findall(drawn)


def test_the_table_names_every_comparison_and_recording(groups):
    table = (DOCS / "parity.md").read_text().partition(BEGIN)[2].partition(END)[0]
    rows = ROW.findall(table)
    wanted = [(group, x) for group, each in groups.items() for x in each]
    assert len(rows) == len(wanted)
    for (group, name, file, keys, count, found, allowed), (expected, x) in zip(
        rows, wanted, strict=True
    ):
        assert (group, name, f"{file}: {keys}") == (expected, x.name, x.recording)
        assert int(count.replace(",", "")) == x.theirs.size
        assert float(found) <= float(allowed) == x.tolerance
        first = re.split(r",? to |, ", keys)[0].split(" to ")[0]
        assert any(name.startswith(first) for name in load(file).files), (file, keys)


def test_what_was_drawn_is_recorded_bit_by_bit(groups):
    by_name = {x.name: x for each in groups.values() for x in each}
    assert by_name["iBOT, sinkhorn"].theirs.shape == (37, 64)
    np.testing.assert_array_equal(
        by_name["learning rate"].theirs, load("v1/schedules")["boost_small/lr"]
    )
    assert by_name["blur 2.0"].theirs.sum() == load("v1/aug_pil")["blur_2.0"].sum(dtype=float)


def test_the_accuracies_are_those_of_the_config_that_was_measured():
    says = " ".join((digits_reference.__doc__ or "").split())
    theirs, ours = (f"{KNN['teacher'][i]} and {KNN['student'][i]} %" for i in (0, 1))
    assert f"{ours} (mean of seeds 0, 1, 2)" in says
    assert f"the official code reaches {theirs} (two seeds)" in says


def test_other_shapes_and_wrong_numbers_are_found():
    with pytest.raises(ValueError, match=r"x: recorded \(2,\), ours \(3,\)"):
        compare("x", "v1/a: b", np.ones(2), np.ones(3), 1e-6)
    assert compare("x", "v1/a: b", [1.0, 4.0], [1.0, 4.4], 1e-6).difference == pytest.approx(0.1)
