"""Shared parts of commands that process many images, on one machine or a pod."""

import contextlib
import sys
from collections.abc import Callable

from dino_jax.commands.command_line import run_command
from dino_jax.commands.compilation_cache import say_programs
from dino_jax.commands.signals import Stopped, stop_on_signals
from dino_jax.devices.host_memory import keep_freed_memory
from dino_jax.processes.join import join_processes
from dino_jax.processes.patience import MissingProcessesError


def run_batch_command(work: Callable[[], str], when_stopped: str, distributed: bool = False) -> int:
    """Does the work, prints its result, and turns errors into messages.

    Args:
      work: returns what to print, "" for nothing.
      when_stopped: line for the console about the state after Ctrl-C or SIGTERM.
      distributed: whether this is one of several processes; they are joined first.

    Returns:
      The exit code. Errors of the user end the program with 2.
    """
    keep_freed_memory()

    def join_and_work() -> str:
        with stop_on_signals(), contextlib.ExitStack() as stack:
            if distributed:
                stack.enter_context(join_processes())
            say_programs()
            return work()

    try:
        return run_command(join_and_work)
    except MissingProcessesError as error:
        print(f"stopped: {error}", file=sys.stderr)
        return error.exit_code
    except Stopped as stopped:
        print(f"{stopped.name}: {when_stopped}", file=sys.stderr)
        return stopped.exit_code
