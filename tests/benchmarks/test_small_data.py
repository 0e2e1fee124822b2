"""Names of runs, what factors change, splits and tables of the study of small data."""

from pathlib import Path

import pytest

from dino_jax.run.whole_config import complete_config, read_config
from tests.benchmarks.small_data.factors import FACTORS, Run, make_config, parse_run
from tests.benchmarks.small_data.images import draw_fifth, family_of, read_emoji
from tests.benchmarks.small_data.page import compare_methods, draw, fill_in, list_factors

IMAGES = Path("sets/digits")


def test_a_name_is_a_run_and_a_run_a_name():
    run = Run("dinov2", ("no_koleo", "rate_2"), 200, 1)
    assert run.name == "dinov2+no_koleo+rate_2-200-1"
    assert parse_run(run.name) == run
    assert parse_run("small_data-200-0") == Run("small_data", (), 200, 0)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dinov2-200", "'dinov2-200' is not METHOD"),
        ("dinov2+nothing-200-0", "unknown factors \\['nothing'\\]"),
        ("dinov2-201-0", "201 steps are no multiple of 8"),
    ],
)
def test_a_name_of_no_run_is_refused(name, words):
    with pytest.raises(ValueError, match=words):
        parse_run(name)


@pytest.mark.parametrize("factor", FACTORS)
def test_a_factor_changes_a_config_that_can_be_read(factor):
    def read(name: str):
        return read_config(complete_config(make_config(parse_run(name), IMAGES)))

    method = "small_data" if factor == "no_flip" else "dinov2"  # which has no flip to leave out
    plain, changed = read(f"{method}-200-0"), read(f"{method}+{factor}-200-0")
    assert plain != changed
    assert plain.epochs * plain.steps_per_epoch == changed.epochs * changed.steps_per_epoch == 200
    assert changed.data.path == "sets/digits/train"


def test_a_fifth_is_for_tests_whatever_the_machine():
    assert sum(draw_fifth(1_000)) == 200
    # np.random.default_rng(0).permutation(5) begins with 2.
    assert draw_fifth(5) == [False, False, True, False, False]


@pytest.mark.parametrize(
    ("stem", "family"),
    [
        ("DejaVuSans-BoldOblique", "DejaVuSans"),
        ("FreeSerifBoldItalic", "FreeSerif"),
        ("LinLibertine_RBI", "LinLibertine"),
        ("Lato-Black", "Lato"),
    ],
)
def test_weights_of_a_font_are_one_family(stem, family):
    assert family_of(stem) == family


def test_emoji_have_groups_and_no_skin_tones_or_joined_ones():
    table = """# group: Smileys & Emotion
1F600 ; fully-qualified     # grinning face
263A  ; unqualified         # smiling face
# group: People & Body
1F44B ; fully-qualified     # waving hand
1F44B 1F3FB ; fully-qualified # waving hand: light skin tone
1F468 200D 1F33E ; fully-qualified # farmer
"""
    assert read_emoji(table) == [
        ("Smileys & Emotion", "\U0001f600"),
        ("People & Body", "\U0001f44b"),
    ]


def result(method: str, factors: list[str], seed: int, last: float) -> dict:
    points = [dict(step=0, images=0, knn=40.0), dict(step=200, images=12_800, knn=last)]
    points[-1]["linear"] = 80.0
    return dict(method=method, factors=factors, steps=200, seed=seed, points=points)


def test_tables_have_means_of_seeds_and_differences():
    results = {
        "digits": {
            "a": result("dino", [], 0, 60.0),
            "b": result("dino", [], 1, 64.0),
            "c": result("dinov2", [], 0, 65.0),
            "d": result("dinov2", ["no_koleo"], 0, 67.5),
        }
    }
    *_, row = compare_methods(results, [("dino", ()), ("dinov2", ())])
    assert row == "| digits | 40.0 |  | 62.0 (60.0, 64.0) | 65.0 |"
    *_, row = list_factors(results, ("dinov2", ()))
    assert row == "| no KoLeo | 67.5, 80.0 (+2.5) |  |  |  |"
    figure = draw(results)
    assert "digits: k-NN" in figure
    assert figure.count('class="line"') == 4  # two curves, two names


def test_a_table_takes_the_place_of_what_is_between_its_marks():
    page = "a\n<!-- one -->\nold\n<!-- end -->\nb\n<!-- two -->\n<!-- end -->\n"
    filled = fill_in(page, {"one": ["| x |"], "two": ["| y |"]})
    assert (
        filled
        == "a\n<!-- one -->\n\n| x |\n\n<!-- end -->\nb\n<!-- two -->\n\n| y |\n\n<!-- end -->\n"
    )
    assert fill_in(filled, {"one": ["| x |"], "two": ["| y |"]}) == filled
