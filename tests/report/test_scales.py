"""Ticks at round numbers, and numbers as text."""

import numpy as np
import pytest

from dino_jax.report.scales import (
    format_count,
    format_ticks,
    format_value,
    linear_scale,
    log_scale,
)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, (0, 0.25, 0.5, 0.75, 1)),
        (0.3, 5.2, (0, 2, 4, 6)),
        (41.2, 98.1, (40, 60, 80, 100)),
        (-3, 4, (-4, -2, 0, 2, 4)),
        (0, 3e-4, (0, 1e-4, 2e-4, 3e-4)),
    ],
)
def test_ticks_are_round_numbers_around_the_limits(low, high, ticks):
    assert linear_scale(low, high).ticks == pytest.approx(ticks, abs=1e-15)


def test_any_limits_get_three_to_seven_ticks_that_enclose_them():
    rng = np.random.default_rng(0)
    for _ in range(300):
        low, width = rng.normal() * 10 ** rng.uniform(-6, 6), 10 ** rng.uniform(-6, 6)
        scale = linear_scale(low, low + width)
        assert 3 <= len(scale.ticks) <= 7
        assert scale.low <= low + 1e-9 * width and low + width <= scale.high + 1e-9 * width


def test_exact_limits_stay_and_ticks_lie_within():
    scale = linear_scale(0, 1200, ticks=6, exact=True)
    assert (scale.low, scale.high) == (0, 1200)
    assert scale.ticks == (0, 200, 400, 600, 800, 1000, 1200)
    assert linear_scale(0, 1151, ticks=6, exact=True).ticks == (0, 200, 400, 600, 800, 1000)


def test_equal_limits_get_room():
    assert linear_scale(5.0, 5.0).low < 5 < linear_scale(5.0, 5.0).high
    assert linear_scale(0.0, 0.0).low < 0 < linear_scale(0.0, 0.0).high


def test_positions_are_shares_of_the_way_and_stay_inside():
    linear, log = linear_scale(0, 8, ticks=4), log_scale(0.02, 30)
    assert [linear(x) for x in (-1, 0, 2, 8, 9)] == [0, 0, 0.25, 1, 1]
    assert (log.low, log.high) == pytest.approx((0.01, 100))
    assert log(1.0) == pytest.approx(0.5)


def test_decades_are_thinned_when_there_are_many():
    assert len(log_scale(1e-12, 1e8).ticks) <= 6
    assert format_ticks(log_scale(1e-5, 1)) == (["10⁻⁵", "10⁻⁴", "10⁻³", "0.01", "0.1", "1"], "")


@pytest.mark.parametrize(
    ("high", "labels", "factor"),
    [
        (1.0, ["0.00", "0.25", "0.50", "0.75", "1.00"], ""),
        (5e-4, ["0", "2", "4", "6"], "\u00d710⁻⁴"),
        (4000, ["0", "1000", "2000", "3000", "4000"], ""),
        (40_000, ["0", "10k", "20k", "30k", "40k"], ""),
        (2e6, ["0", "0.5M", "1M", "1.5M", "2M"], ""),
    ],
)
def test_labels_share_decimals_a_suffix_or_one_factor(high, labels, factor):
    assert format_ticks(linear_scale(0, high)) == (labels, factor)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (91.3649, "91.36"),
        (-0.5, "\u22120.5"),
        (76800, "76\u202f800"),
        (2.5e-5, "2.5\u00d710⁻⁵"),
        (3.14159e7, "3.14\u00d710⁷"),
        (float("nan"), "not finite"),
    ],
)
def test_values_have_four_digits_or_a_power_of_ten(value, text):
    assert format_value(value) == text


def test_counts_have_thin_spaces():
    assert format_count(1234567) == "1\u202f234\u202f567"
