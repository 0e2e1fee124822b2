"""Every command with its options, from the parsers."""

import argparse
import functools
import importlib
import textwrap
from collections.abc import Iterator
from typing import Any
from unittest import mock

from dino_jax.__main__ import COMMANDS
from dino_jax.commands.arguments import Number, size
from dino_jax.commands.command_line import PROGRAM, CommandParser, parse_bool
from docs.generators.markdown import code, plain, table, toctree


class _Found(Exception):
    """Carries a parser out of a command."""


@functools.cache
def parser_of(command: str) -> CommandParser:
    """The parser with which a command reads its arguments."""

    def stop(self: CommandParser, *_: Any) -> None:
        raise _Found(self)

    try:
        with mock.patch.object(CommandParser, "parse_known_args", stop):
            importlib.import_module(COMMANDS[command].module).main([])
    except _Found as found:
        return found.args[0]
    raise TypeError(f"{command} has no CommandParser")


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Parsers of the subcommands by name; none if there are none."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def arguments_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The arguments that its help shows, but for --help and subcommands."""
    return [
        action
        for action in parser._actions
        if action.help != argparse.SUPPRESS
        and action.dest != "help"
        and not isinstance(action, argparse._SubParsersAction)
    ]


def spelling(action: argparse.Action) -> str:
    """As one writes it: "--k K [K ...]", "PHOTO"."""
    formatter = argparse.HelpFormatter("")
    if not action.option_strings:
        return formatter._format_args(action, str(action.metavar or action.dest))
    name = action.option_strings[0]
    if action.nargs == 0:
        return name
    return f"{name} {formatter._format_args(action, action.dest.upper())}"


def values(action: argparse.Action) -> str:
    """The values that it takes, "" if any text is one."""
    if action.choices is not None:
        return " | ".join(map(str, action.choices))
    if isinstance(action.type, Number):
        kind = "integer" if action.type.kind is int else "number"
        return f"{kind}, {action.type.range}"
    return {size: "518 or 224x336", parse_bool: "true | false"}.get(action.type, "")


def default(action: argparse.Action) -> str:
    """What holds without it, "" if that is nothing or the help says it."""
    if action.default in (None, argparse.SUPPRESS, "", []) or action.nargs == 0:
        return ""
    if isinstance(action.default, list | tuple):
        return " ".join(map(str, action.default))
    return str(action.default)


def meaning(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """Its help, with the defaults in it."""
    return parser._get_formatter()._expand_help(action) if action.help else ""


def command_pages() -> dict[str, str]:
    """A page for each command, by name, and "index"."""
    pages = {name: "\n\n".join(_command(name)) + "\n" for name in COMMANDS}
    overview = table(
        ("command", "what it does"),
        ((f"[`{name}`]({name}.md)", command.about) for name, command in COMMANDS.items()),
    )
    intro = (
        "Every command with its options: this page is made from the programs. The same stands in "
        f"`{PROGRAM} COMMAND --help`. [Exit codes](../../exit_codes.md) are the same everywhere."
    )
    pages["index"] = (
        "\n\n".join(["# Commands", intro, overview, toctree(COMMANDS, ":hidden:", ":maxdepth: 1")])
        + "\n"
    )
    return pages


def _command(name: str) -> Iterator[str]:
    parser = parser_of(name)
    yield f"# {PROGRAM} {name}"
    yield COMMANDS[name].about
    yield from _parser(parser)
    for word, inner in subcommands(parser).items():
        yield from _subcommand(word, inner, "##")


def _subcommand(word: str, parser: argparse.ArgumentParser, level: str) -> Iterator[str]:
    yield f"{level} {word}"
    yield from _parser(parser)
    for inner_word, inner in subcommands(parser).items():
        yield from _subcommand(f"{word} {inner_word}", inner, level + "#")


def _parser(parser: argparse.ArgumentParser) -> Iterator[str]:
    summary = getattr(parser, "summary", "")
    if summary and summary not in {command.about for command in COMMANDS.values()}:
        yield summary
    usage = " ".join(parser.format_usage().removeprefix("usage:").split())
    yield f"```text\n{textwrap.fill(usage, 84, subsequent_indent='    ')}\n```"
    if parser.description and parser.description.strip():
        yield f"```text\n{parser.description.strip(chr(10))}\n```"
    found = arguments_of(parser)
    if found:
        yield table(
            ("argument", "values", "default", "meaning"),
            (
                (code(spelling(x)), values(x), code(default(x)), plain(meaning(parser, x)))
                for x in found
            ),
        )
