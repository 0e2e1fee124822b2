"""Every option of every section of a config, found by looking: wrong values are named, in one line.

A section, a kind or an option that is added later is found as well. The arguments of commands have
tests/commands/test_every_argument.py.
"""

import copy
import dataclasses
import math
import types
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import pytest

from configs import digits_dinov2
from dino_jax.config.section import About, options
from dino_jax.devices.sharding import make_mesh
from dino_jax.run.check import check_config
from dino_jax.run.whole_config import Config, read_config

IMAGES = 1438  # of the digits
HUGE = (10**20, 10**400, 2**63)
WRONG: dict[Any, tuple] = {
    bool: (None, 1, 0.5, "yes", "", [], {}),
    int: (None, True, "7", "", [], {}, 0.5, math.nan, math.inf, -1, *HUGE),
    float: (None, True, "0.1", "", [], {}, math.nan, math.inf, -math.inf, 1e300, -1e9, *HUGE),
    str: (None, True, 7, [], {}),
}
MAY_BE_NEGATIVE = {"mean"}


class Option(NamedTuple):
    path: tuple[str, ...]
    hint: Any
    about: About
    default: Any

    @property
    def place(self) -> str:
        return ".".join(("config", *self.path))


def plain_config() -> dict[str, Any]:
    """A tiny run; every kind of every table has a section in it."""
    config = digits_dinov2.get_config()
    config.batch_size = 8
    config.runtime.workers = 0
    config.network.backbone.update(embed_dim=8, depth=2, num_heads=2)
    for head in config.network.heads.values():
        head.update(out_dim=8, hidden_dim=8, bottleneck_dim=4)
    return dataclasses.asdict(read_config(config))


def find_options(section: Any, path: tuple[str, ...] = ()) -> Iterator[Option]:
    """The options of a section and of the sections in it."""
    for name, (hint, about) in options(type(section)).items():
        value, here = getattr(section, name), (*path, name)
        if about.is_table:
            for key, entry in value.items():
                yield from find_options(entry, (*here, key))
        elif dataclasses.is_dataclass(value):
            yield from find_options(value, here)
        else:
            yield Option(here, hint, about, value)


def find_other_kinds(section: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[Option, dict]]:
    """Options of kinds that the config does not use, with a plain section of that kind."""
    for name, (_, about) in options(type(section)).items():
        value, here = getattr(section, name), (*path, name)
        if about.kinds is not None:
            used = {x.kind for x in value.values()} if about.is_table else {value.kind}
            for kind in set(about.kinds) - used:
                other = dataclasses.replace(about.kinds[kind].Config(), kind=kind)
                place = (*here, "another") if about.is_table else here
                for option in find_options(other, place):
                    yield option, {".".join(place): dataclasses.asdict(other)}
        entries = value.items() if about.is_table else [("", value)]
        for key, entry in entries:
            if dataclasses.is_dataclass(entry):
                yield from find_other_kinds(entry, (*here, key) if key else here)


PLAIN = plain_config()
OWN = [(option, {}) for option in find_options(read_config(PLAIN))]
OTHERS = list(find_other_kinds(read_config(PLAIN)))
ALL = OWN + OTHERS


def put(changes: dict[str, Any]) -> dict[str, Any]:
    plain = copy.deepcopy(PLAIN)
    for place, value in changes.items():
        *way, name = place.split(".")
        section = plain
        for step in way:
            section = section[step]
        section[name] = value
    return plain


def numbers_of(hint: Any) -> type | None:
    """int or float for an option with numbers, perhaps several, perhaps None."""
    if get_origin(hint) in (Union, types.UnionType, tuple):
        return numbers_of(get_args(hint)[0])
    return hint if hint in (int, float) else None


def wrong_values(option: Option) -> list[Any]:
    hint, about = option.hint, option.about
    if get_origin(hint) in (Union, types.UnionType):
        inner = next(x for x in get_args(hint) if x is not type(None))
        return [x for x in wrong_values(option._replace(hint=inner)) if x is not None]
    if get_origin(hint) is Literal:
        return [None, 7, "", "no such thing", [], {}]
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        each = [x for x in wrong_values(option._replace(hint=inner[0])) if x != []]
        length = 1 if inner[-1] is Ellipsis else len(inner)
        lengths = [] if inner[-1] is Ellipsis else [[], [1] * (length + 1)]
        return [None, 7, "text", {}, *lengths, *([x] * length for x in each)]
    among = ["no such thing"] if about.among is not None or option.path[-1] == "kind" else []
    values = [*WRONG[hint], *among]
    if numbers_of(hint):
        low, high = about.bounds.at_least, about.bounds.at_most
        values += [hint(low) - 1] if low is not None else []
        values += [hint(high) + 1] if high is not None else []
        values += [hint(about.bounds.above)] if about.bounds.above is not None else []
        values += [hint(about.bounds.below)] if about.bounds.below is not None else []
    return values


def test_all_options_are_looked_at():
    assert len(OWN) > 200 and len(OTHERS) > 10
    assert {option.path[0] for option, _ in OWN} == {x.name for x in dataclasses.fields(Config)}


def test_every_number_states_its_range():
    for option, _ in ALL:
        kind, bounds = numbers_of(option.hint), option.about.bounds
        if kind is None:
            continue
        low = bounds.at_least if bounds.at_least is not None else bounds.above
        high = bounds.at_most if bounds.at_most is not None else bounds.below
        assert low is not None, f"{option.place} states no least value"
        assert low >= 0 or option.path[-1] in MAY_BE_NEGATIVE, option.place
        assert kind is int or high is not None, f"{option.place} states no largest value"
        assert option.about.meaning, f"{option.place} states no meaning"


@pytest.mark.parametrize("part", sorted({option.path[0] for option, _ in ALL}))
def test_wrong_values_are_named_in_one_line(part):
    for option, section in ALL:
        for value in wrong_values(option) if option.path[0] == part else ():
            what = f"{option.place} = {str(value)[:40] if value != [10**400] else '…'}"
            with pytest.raises(ValueError) as refused:
                read_config(put({**section, option.place.removeprefix("config."): value}))
                pytest.fail(f"{what} was taken")
            message = str(refused.value)
            assert option.place in message, f"{what}: {message}"
            assert "\n" not in message and len(message) < 400, f"{what}: {message}"


def ends(option: Option) -> list[Any]:
    """The smallest and the largest legal value of a number."""
    kind, bounds = numbers_of(option.hint), option.about.bounds
    if kind is None:
        return []
    tiny = 1 if kind is int else 1e-6
    low = bounds.at_least if bounds.at_least is not None else bounds.above + tiny
    high = bounds.at_most if bounds.at_most is not None else bounds.below
    high = 2**31 - 1 if high is None else high - (tiny if bounds.at_most is None else 0)
    values = [kind(low), kind(high)]
    if any(get_origin(x) is tuple for x in (option.hint, *get_args(option.hint))):
        return [[value] * len(option.default or (1, 1)) for value in values]
    return values


@pytest.mark.parametrize("part", sorted({option.path[0] for option, _ in ALL}))
def test_the_ends_of_a_range_are_taken_or_do_not_fit_something_that_is_named(part):
    mesh = make_mesh(1)
    for option, section in ALL:
        for value in ends(option) if option.path[0] == part else ():
            config = read_config(put({**section, option.place.removeprefix("config."): value}))
            try:
                check_config(config, IMAGES, mesh)
            except (ValueError, OSError, ImportError) as error:
                message = str(error)
                assert option.path[-1] in message or "config." in message, f"{option}: {message}"
                assert "\n" not in message, f"{option}: {message}"
