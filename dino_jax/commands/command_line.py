"""One style of command lines: options with dashes, help, and errors of the user in one line."""

import argparse
import ast
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from dino_jax.commands.console import prepare_console
from dino_jax.commands.jax_switches import ignore_switches
from dino_jax.foreign.names import for_terminal

PROGRAM = "dino-jax"
WRONG_USAGE = 2  # exit code, as argparse's
BOOLS = {"true": True, "1": True, "false": False, "0": False}  # texts of a switch


class UsageError(Exception):
    """Something in the config, the data or the workdir that the user can fix."""

    exit_code = WRONG_USAGE


class WrongUsageExit(SystemExit):
    """The end of a command that cannot start.

    Attributes:
      message: the line that was printed.
    """

    def __init__(self, message: str):
        super().__init__(WRONG_USAGE)
        self.message = message


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns ValueError and OSError into UsageError: the input is at fault, not the code."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error


def fail(message: object) -> NoReturn:
    """Exits with code 2 and one line, without a traceback."""
    line = for_terminal(str(message))
    print(f"error: {line}", file=sys.stderr, flush=True)
    raise WrongUsageExit(line)


def run_command(work: Callable[[], str]) -> int:
    """Does the work and prints what it returns, "" for nothing; errors of the user take one line.

    Returns:
      The exit code; errors of the user end the program with 2.
    """
    ignore_switches()
    try:
        with user_errors():
            text = work()
    except (UsageError, ImportError) as error:  # ImportError: a package that an option needs
        fail(error)
    if text:
        print(for_terminal(text))
    return 0


def docstring_of(file: str) -> str:
    """The docstring of a source file, which python -OO takes away from the module."""
    try:
        return ast.get_docstring(ast.parse(Path(file).read_text(encoding="utf-8"))) or ""
    except (OSError, SyntaxError):  # installed without sources
        return ""


class CommandParser(argparse.ArgumentParser):
    """The parser of one command, whose help begins with what the command does.

    Options have dashes; the underscores and the single dash that version 0.1 accepted in some
    places are accepted everywhere.
    """

    def __init__(self, prog: str, description: str | None, **options: Any):
        """See `argparse.ArgumentParser` for the other arguments.

        Args:
          prog: the command, without `PROGRAM`.
          description: its first line says what the command does.
        """
        self.summary, _, details = (description or "").strip().partition("\n")
        super().__init__(
            prog if prog.startswith(PROGRAM) else f"{PROGRAM} {prog}",
            description=details.strip("\n"),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **options,
        )

    def format_help(self) -> str:
        return f"{self.summary}\n\n{super().format_help()}"

    # typeshed declares overloads of the next two
    def parse_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        given, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.refuse(unknown)
        return given

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        prepare_console()  # here every command begins
        arguments = sys.argv[1:] if args is None else args
        return super().parse_known_args([self._spell(x) for x in arguments], namespace)

    def error(self, message: str) -> NoReturn:
        fail(f"{message}; see {self.prog} --help")

    def refuse(self, arguments: Sequence[str]) -> NoReturn:
        """Exits with an error about arguments that the command does not have."""
        from dino_jax.config.section import suggest  # needs NumPy, so only now

        name = arguments[0].split("=")[0]
        known = self.names()
        hint = f"; {suggest(name, known)}" if name.startswith("-") else ""
        self.error(f"unexpected {' '.join(arguments)}{hint}")

    def names(self) -> list[str]:
        """The options of this command and of its subcommands."""
        names = [x for x in self._option_string_actions if x.startswith("--")]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                names += [name for parser in action.choices.values() for name in parser.names()]
        return sorted(set(names))

    def _spell(self, argument: str) -> str:
        """--num_heads=6 and -num_heads=6 as --num-heads=6, if there is such an option."""
        match = re.fullmatch(r"--?(\w[\w-]+)(=.*)?", argument, re.DOTALL)
        if not match:
            return argument
        name = "--" + match[1].replace("_", "-")
        return name + (match[2] or "") if name in self._option_string_actions else argument


def add_switch(
    parser: argparse.ArgumentParser, name: str, meaning: str, default: bool = False
) -> None:
    """Adds an on/off option: --name, --no-name, and also --name=false, --noname."""
    plain = name.removeprefix("--")
    parser.add_argument(
        name, nargs="?", type=parse_bool, const=True, default=default, help=meaning, metavar="BOOL"
    )
    parser.add_argument(
        f"--no-{plain}",
        f"--no{plain}",
        dest=plain.replace("-", "_"),
        action="store_false",
        help=argparse.SUPPRESS,
    )


def parse_bool(text: str) -> bool:
    """The type of a switch."""
    if text.lower() not in BOOLS:
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return BOOLS[text.lower()]
