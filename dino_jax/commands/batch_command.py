"""What the commands have in common that go through many images, on one machine or a pod."""

import contextlib
import sys
from collections.abc import Callable

from dino_jax.commands.command_line import UsageError, fail, mendable
from dino_jax.data.building.build_workers import Stopped, stop_on_signals
from dino_jax.devices.host_memory import keep_freed_memory
from dino_jax.processes.join import join_processes
from dino_jax.processes.patience import MissingProcessesError


def run_batch_command(work: Callable[[], str], distributed: bool, when_stopped: str) -> int:
    """Does the work, prints what it says, and turns errors into messages.

    Args:
      work: returns what to print, "" for nothing.
      distributed: whether this is one of several processes; they are joined first.
      when_stopped: what is left after Ctrl-C or SIGTERM, for the console.

    Returns:
      The exit code. Errors that the user can mend end the program with 2.
    """
    keep_freed_memory()
    try:
        with mendable(), stop_on_signals(), contextlib.ExitStack() as stack:
            if distributed:
                stack.enter_context(join_processes())
            said = work()
    except (UsageError, ImportError) as error:  # ImportError: a package that a source needs
        fail(error)
    except MissingProcessesError as error:
        print(f"stopped: {error}", file=sys.stderr)
        return error.exit_code
    except Stopped as stopped:
        print(f"{stopped.name}: {when_stopped}", file=sys.stderr)
        return stopped.exit_code
    if said:
        print(said)
    return 0
