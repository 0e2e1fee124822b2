"""Shared parts of commands that process many images, on one machine or a pod."""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable

from dino_jax.commands.command_line import UsageError, run_command, user_errors
from dino_jax.commands.compilation_cache import say_programs
from dino_jax.commands.facts import facts_of
from dino_jax.commands.signals import Stopped, stop_on_signals
from dino_jax.devices.host_memory import keep_freed_memory
from dino_jax.processes.agreement import Agreement, Alone
from dino_jax.processes.join import join_processes
from dino_jax.processes.patience import MissingProcessesError

PER_PROCESS = frozenset({"distributed", "threads", "batch_size"})  # options that may differ


def run_batch_command(
    work: Callable[[Agreement], str], when_stopped: str, options: argparse.Namespace
) -> int:
    """Does the work, prints its result, and turns errors into messages.

    Args:
      work: returns what to print, "" for nothing; gets the agreement of all processes.
      when_stopped: line for the console about the state after Ctrl-C or SIGTERM.
      options: the command line; with `distributed` this is one of several processes, which are
        joined first and must have the same options.

    Returns:
      The exit code. Errors of the user end the program with 2.
    """
    keep_freed_memory()

    def join_and_work() -> str:
        with stop_on_signals(), contextlib.ExitStack() as stack:
            agreement: Agreement = Alone()
            if options.distributed:
                agreement = stack.enter_context(join_processes(facts=_facts(options)))
            say_programs()
            try:
                with user_errors():  # here: the exit code of all processes is that of the error
                    return work(agreement)
            except ImportError as error:
                raise UsageError(str(error)) from error

    try:
        return run_command(join_and_work)
    except MissingProcessesError as error:
        print(f"stopped: {error}", file=sys.stderr)
        return error.exit_code
    except Stopped as stopped:
        print(f"{stopped.name}: {when_stopped}", file=sys.stderr)
        return stopped.exit_code


def _facts(options: argparse.Namespace) -> dict[str, object]:
    given = {name: value for name, value in vars(options).items() if name not in PER_PROCESS}
    return facts_of(json.loads(json.dumps(given, default=str)))
