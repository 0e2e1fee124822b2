"""Sections: what a config may say, and how it is told that it says something else."""

import types
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
from ml_collections import ConfigDict

from dino_jax.config.defaults import complete, to_config_dict
from dino_jax.config.describe import describe_config
from dino_jax.config.section import UnknownNameError, kinds, named, option, section


@dataclass(frozen=True)
class Cat:
    kind: str = option("cat", "of animal")
    lives: int = option(9, "left", at_least=1)


@dataclass(frozen=True)
class Dog:
    kind: str = option("dog", "of animal")
    tricks: tuple[str, ...] = option((), "that it knows")


ANIMALS: dict[str, Any] = {"cat": types.SimpleNamespace(Config=Cat)}
ANIMALS["dog"] = types.SimpleNamespace(Config=Dog)


@dataclass(frozen=True)
class Bowl:
    liters: float = option(0.5, "of water", above=0, at_most=2)


@dataclass(frozen=True)
class House:
    rooms: int = option(3, "rooms", at_least=1)
    heated: bool = option(True, "whether it is")
    color: Literal["red", "blue"] = option("red", "of the door")
    size: tuple[float, float] = option((8.0, 10.0), "meters", above=0)
    name: str | None = option(None, "of the house; None: none")
    bowl: Bowl = option(Bowl(), "for the pet")
    bowls: dict[str, Bowl] = named(Bowl, {}, "further bowls")
    pet: Any = kinds(ANIMALS, "the pet", default="cat")
    guests: dict[str, Any] = kinds(ANIMALS, "by name", is_table=True)


@dataclass(frozen=True)
class Shelter:
    takes: str = option("cat", "kind of animal", among=ANIMALS)


def read(**given: Any) -> House:
    return section("config.house", ConfigDict(given), House)


def test_missing_names_have_their_default_and_are_listed():
    defaulted: list[str] = []
    house = section("config.house", {"rooms": 5, "pet": {"kind": "dog"}}, House, defaulted)
    assert house == House(rooms=5, pet=Dog())
    assert "config.house.heated" in defaulted and "config.house.pet.tricks" in defaulted
    assert "config.house.rooms" not in defaulted


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"roms": 1}, "config.house has no 'roms'; did you mean 'rooms'?"),
        ({"bowl": {"litres": 1}}, "config.house.bowl has no 'litres'; did you mean 'liters'?"),
        ({"bowls": {"a": {"x": 1}}}, "config.house.bowls.a has no 'x'; known: ['liters']"),
        ({"pet": {"kind": "dog", "lives": 1}}, "config.house.pet has no 'lives'"),
        ({"guests": {"rex": {"kind": "dog", "trick": ()}}}, "did you mean 'tricks'?"),
    ],
)
def test_unknown_names_are_errors_with_a_suggestion(given: dict, message: str):
    with pytest.raises(UnknownNameError) as error:
        read(**given)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rooms": 0}, "config.house.rooms must be at least 1, got 0"),
        ({"rooms": 2.5}, "config.house.rooms must be an integer, got 2.5"),
        ({"rooms": True}, "config.house.rooms must be an integer, got True"),
        ({"rooms": None}, "config.house.rooms must be an integer, got None"),
        ({"heated": 1}, "config.house.heated must be a bool, got 1"),
        ({"color": "rod"}, "config.house.color is 'rod'; did you mean 'red'?"),
        ({"size": (1.0,)}, "config.house.size must be 2 numbers in (…), got (1.0,)"),
        ({"size": (1.0, 0.0)}, "config.house.size[1] must be above 0, got 0.0"),
        ({"size": (1.0, "2")}, "config.house.size[1] must be a number, got '2'"),
        ({"name": 3}, "config.house.name must be a string, got 3"),
        ({"bowl": 3}, "config.house.bowl must be a section of options, got 3"),
        ({"bowl": {"liters": 3}}, "config.house.bowl.liters must be above 0 and at most 2, got 3"),
        ({"bowl": {"liters": float("nan")}}, "liters must be a finite number, got nan"),
        ({"size": (1.0, float("inf"))}, "config.house.size[1] must be a finite number, got inf"),
        ({"pet": {"kind": "cow"}}, "config.house.pet.kind is 'cow'; known: ['cat', 'dog']"),
        ({"guests": {"tom": {}}}, "config.house.guests.tom needs a kind; known: ['cat', 'dog']"),
        ({"guests": 3}, "config.house.guests must be a section of options, got 3"),
    ],
)
def test_values_that_do_not_fit_say_what_is_expected(given: dict, message: str):
    with pytest.raises(ValueError) as error:
        read(**given)
    assert message in str(error.value)


def test_values_become_their_declared_types():
    house = read(size=[4, np.float32(5)], rooms=np.int64(2), bowl={"liters": 1})
    assert house.size == (4.0, 5.0) and isinstance(house.size[0], float)
    assert house.rooms == 2 and isinstance(house.rooms, int)
    assert isinstance(house.bowl.liters, float)


def test_a_section_without_a_kind_is_of_the_kind_of_its_name():
    assert read(guests={"dog": {"tricks": ("sit",)}}).guests == {"dog": Dog(tricks=("sit",))}


def test_a_kind_can_be_added_from_outside(monkeypatch):
    @dataclass(frozen=True)
    class Cow:
        kind: str = option("cow", "of animal")
        milk: float = option(20.0, "liters per day")

    monkeypatch.setitem(ANIMALS, "cow", types.SimpleNamespace(Config=Cow))
    assert read(pet={"kind": "cow", "milk": 3}).pet == Cow(milk=3.0)


def test_a_complete_config_takes_overrides_of_every_option():
    config = complete(ConfigDict({"rooms": 7, "guests": {"dog": {}}}), House)
    config.lock()
    config.name = "Elm"
    config.bowl.liters = 1
    config.guests.dog.tricks = ("roll",)
    house = section("config.house", config, House)
    assert house.rooms == 7 and house.name == "Elm" and house.bowl.liters == 1.0
    assert house.guests == {"dog": Dog(tricks=("roll",))}
    assert section("c", to_config_dict(House()), House) == House()


def test_completing_leaves_mistakes_for_the_reader():
    given = ConfigDict({"roms": 7, "rooms": "x", "pet": {"kind": "cow"}, "bowl": 3})
    config = complete(given, House)
    assert config.roms == 7 and config.rooms == "x" and config.pet.kind == "cow"
    assert config.bowl == 3


def test_a_described_config_marks_what_differs_from_its_base():
    lines = describe_config(House(rooms=4, pet=Dog()), House())
    assert "* config.rooms = 4" in lines[0] and lines[0].endswith("# rooms; base: 3")
    assert lines[1].startswith("  config.heated = True") and lines[1].endswith("# whether it is")
    assert any(line.startswith("* config.pet.tricks = ()") for line in lines)
    assert any("not in the base" in line for line in lines)


def test_choices_of_a_table_are_those_that_it_has_when_the_config_is_read(monkeypatch):
    with pytest.raises(ValueError, match=r"config\.shelter\.takes is 'dgo'; did you mean 'dog'\?"):
        section("config.shelter", {"takes": "dgo"}, Shelter)
    monkeypatch.setitem(ANIMALS, "dgo", ANIMALS["dog"])
    assert section("config.shelter", {"takes": "dgo"}, Shelter).takes == "dgo"


def test_an_option_follows_the_option_that_it_refers_to_after_an_override():
    given = ConfigDict({"rooms": 7})
    given.bowls = ConfigDict({"big": ConfigDict({"liters": 1.5})})
    given.bowl = ConfigDict({"liters": given.bowls.big.get_ref("liters")})
    config = complete(given, House)
    config.bowls.big.liters = 0.25
    assert section("config.house", config, House).bowl.liters == 0.25


def test_a_part_of_a_section_keeps_the_rest_of_its_own_default():
    @dataclass(frozen=True)
    class Tap:
        cold: float = option(10.0, "degrees")
        hot: float = option(50.0, "degrees")

    @dataclass(frozen=True)
    class Bath:
        tap: Tap = option(Tap(hot=40.0), "of the bath")

    globals()["Tap"] = Tap  # where the type hint of Bath is looked up
    assert section("c", {"tap": {"cold": 5}}, Bath).tap == Tap(5.0, 40.0)
    assert complete(ConfigDict({"tap": {"cold": 5}}), Bath).tap.hot == 40.0
