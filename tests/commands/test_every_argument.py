"""Every argument of every command, found by looking: wrong values end with one line that names it.

A command, a protocol or an option that is added later is found as well. Options of configs have
tests/run/test_every_option.py.
"""

import argparse
import functools
import importlib
from typing import Any

import pytest

from dino_jax.__main__ import COMMANDS
from dino_jax.commands.arguments import Number, filled, size
from dino_jax.commands.command_line import CommandParser, parse_bool

NO_NUMBERS = ("", " ", "many", "nan", "inf", "-inf", "1e999", "-1", "0x10", "9" * 30, "9" * 5000)
# Where 0 has a meaning of its own, which the help states.
ZERO_IS_LEGAL = {
    *("--above", "--min-detail", "--min-entropy", "--min-side", "--sheets"),  # of curate
    *("--clip", "--fps", "--max-unreadable", "--need", "--overlap", "--radius", "--seconds"),
    *("--seed", "--shards", "--size", "--step", "--text-weight", "--weight", "--weight-decay"),
    *("--cutmix", "--drop-path", "--erase", "--flip", "--label-smoothing", "--min-lr"),
    *("--patience", "--preserve"),
    *("--mixup", "--rand-augment", "--warmup-epochs", "--workers"),
}


class Found(Exception):
    """Carries a parser out of a command."""


@functools.cache
def parser_of(command: str) -> CommandParser:
    def stop(self: CommandParser, *_: Any) -> None:
        raise Found(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CommandParser, "parse_known_args", stop)
        with pytest.raises(Found) as found:
            importlib.import_module(COMMANDS[command].module).main([])
    return found.value.args[0]


def parsers(parser: argparse.ArgumentParser, words: tuple[str, ...]) -> list[tuple]:
    """(parser, its words on the command line) of a command and of its subcommands."""
    choices = [x.choices for x in parser._actions if isinstance(x, argparse._SubParsersAction)]
    if not choices:
        return [(parser, words)]
    return [x for name, one in choices[0].items() for x in parsers(one, (*words, name))]


def arguments_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [x for x in parser._actions if x.help != argparse.SUPPRESS and x.dest != "help"]


def legal(action: argparse.Action) -> str:
    if action.choices:
        return str(next(iter(action.choices)))
    return "7" if isinstance(action.type, Number) else "something"


def name_of(action: argparse.Action) -> str:
    """As argparse calls it."""
    return action.option_strings[0] if action.option_strings else action.metavar or action.dest


def words_for(action: argparse.Action, value: str) -> list[str]:
    count = action.nargs if isinstance(action.nargs, int) else 1
    if not action.option_strings:
        return [value]
    if count == 1:
        return [f"{action.option_strings[0]}={value}"]
    return [action.option_strings[0], *[value] * count]


def wrong_values(action: argparse.Action) -> list[str]:
    if isinstance(action.type, Number):
        zero = name_of(action) not in ZERO_IS_LEGAL
        return [*NO_NUMBERS, *["0"] * zero, *["1.5", "1e3"] * (action.type.kind is int)]
    if action.type is size:
        return [*NO_NUMBERS, "0", "0x9", "9x", "x9", "9x9x9", "9x1.5", "9X9"]
    if action.choices or action.type is parse_bool:
        return ["", "no such thing"]
    return ["", " "] if action.type is filled else []


ALL = [
    (command, words, action)
    for command in COMMANDS
    for parser, words in parsers(parser_of(command), ())
    for action in arguments_of(parser)
]


def run(command: str, words: tuple[str, ...], action: argparse.Action, value: str) -> Any:
    """Parses a command line in which this value is the only thing that may be wrong."""
    whole = parser_of(command)
    parser = next(one for one, found in parsers(whole, ()) if found == words)
    line = list(words)
    for other in arguments_of(parser):
        if other.dest == action.dest:
            line += words_for(action, value)
        elif other.required:
            line += words_for(other, legal(other))
    return whole.parse_known_args(line)[0]


def test_all_arguments_are_looked_at():
    assert len(ALL) > 150
    assert {command for command, *_ in ALL} == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_argument_has_a_kind(command):
    for _, words, action in (x for x in ALL if x[0] == command):
        known = isinstance(action.type, Number) or action.type in (None, filled, parse_bool, size)
        assert known, (
            f"{command} {words} {name_of(action)}: use a kind of dino_jax.commands.arguments"
        )
        if action.required and not action.choices:
            assert action.type is not None, f"{command} {words} {name_of(action)} may be empty"
        if action.type is None and action.nargs != 0:
            given = action.default if action.default is not None else ""
            assert isinstance(given, str | list), f"{command} {words} {name_of(action)} is a number"


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_values_end_with_one_line_that_names_the_argument(
    command, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    tried = 0
    for _, words, action in (x for x in ALL if x[0] == command):
        for value in wrong_values(action):
            what = f"{command} {words} {name_of(action)}={value[:20]!r}"
            with pytest.raises(SystemExit) as stopped:
                run(command, words, action, value)
                pytest.fail(f"{what} was taken")
            out, err = capsys.readouterr()
            assert (stopped.value.code, out) == (2, ""), what
            assert err.startswith("error: ") and err.count("\n") == 1, f"{what}: {err}"
            assert name_of(action) in err and len(err) < 300, f"{what}: {err}"
            tried += 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_the_ends_of_a_range_are_legal(command):
    for _, words, action in (x for x in ALL if x[0] == command):
        if isinstance(action.type, Number):
            kind, range_ = action.type.kind, action.type.range
            for end in (range_.at_least, range_.at_most):
                if end is not None:
                    found = getattr(run(command, words, action, str(kind(end))), action.dest)
                    assert found in (end, [end], [end, end])
