"""Overrides of a config from the command line."""

import pytest
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from dino_jax.commands.overrides import apply_overrides


@pytest.fixture
def config():
    config = ConfigDict(
        {
            "seed": 1,
            "data": {"path": "here", "on": False},
            "crop": {"size": (8, 8), "ratio": 0.5, "dim": placeholder(int)},
        }
    )
    config.other = config.get_ref("seed")
    return config


def test_values_have_the_type_of_their_option(config):
    arguments = ["--config.seed=7", "--config.data.path", "there", "--config.crop.size=(4, 2)"]
    assert (
        apply_overrides(config, [*arguments, "--config.crop.ratio=1", "--config.crop.dim=3"]) == []
    )
    assert config.to_dict() == {
        "seed": 7,
        "other": 7,  # follows
        "data": {"path": "there", "on": False},
        "crop": {"size": (4, 2), "ratio": 1.0, "dim": 3},
    }


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        (["--config.data.on"], True),
        (["--config.data.on=true"], True),
        (["--config.data.on=0"], False),
        (["--noconfig.data.on"], False),
        (["-config.data.on=TRUE"], True),
    ],
)
def test_switches_need_no_value(config, argument, value):
    assert apply_overrides(config, [*argument, "rest"]) == ["rest"]
    assert config.data.on is value


def test_of_an_option_that_is_given_twice_the_last_value_holds(config):
    arguments = ["--config.crop.size=(1, 1)", "--config.seed=2", "--config.crop.size=(2, 3)"]
    assert apply_overrides(config, [*arguments, "--config.seed=3", "--config.data.path=a"]) == []
    assert (config.crop.size, config.seed, config.data.path) == ((2, 3), 3, "a")


def test_an_option_without_a_value_can_be_set_back(config):
    apply_overrides(config, ["--config.crop.dim=3", "--config.crop.dim=None"])
    assert config.crop.dim is None


def test_other_arguments_stay_in_order(config):
    assert apply_overrides(config, ["a", "--x=1", "--config.seed=3", "--configs", "-v"]) == [
        *("a", "--x=1", "--configs", "-v")
    ]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("config.sed=1", "config has no 'sed'; did you mean 'seed'?"),
        ("config.data.pth=1", "config.data has no 'pth'; did you mean 'path'?"),
        ("config.seed.x=1", "config.seed is an option, not a section; use --config.seed=VALUE"),
        ("config.data=1", "config.data is a section: override its options, such as --config.data."),
        ("config.=1", "config has no ''"),
        ("config.knn.k=1", "config.knn of version 0.1 is config.evaluations.knn"),
        ("config.seed", "config.seed needs a value: --config.seed=VALUE"),
        ("config.seed=1.5", "config.seed must be an integer, got '1.5'"),
        ("config.seed=" + "9" * 5000, "config.seed must be an integer, got '9999"),
        ("config.crop.ratio=half", "config.crop.ratio must be a number, got 'half'"),
        ("config.data.on=perhaps", "config.data.on must be a bool, got 'perhaps'"),
        ("noconfig.seed", "config.seed needs a value"),
    ],
)
def test_what_cannot_be_is_named(config, argument, message):
    with pytest.raises(ValueError) as refused:
        apply_overrides(config, [f"--{argument}"])
    assert str(refused.value).startswith(message) and len(str(refused.value)) < 200


@pytest.mark.parametrize("text", ["4, 4", "(4", "(" * 3000, "__import__('os')", "{}", "None"])
def test_a_text_that_is_no_tuple_is_left_to_the_reader_of_the_config(config, text):
    apply_overrides(config, [f"--config.crop.size={text}"])
    expected = {"4, 4": (4, 4), "{}": ({},), "None": None}
    assert config.crop.size == expected.get(text, (text,))
