"""Joins the processes of a TPU pod, or of another job, into one training."""

import contextlib
import os
import time

import jax
from jax._src import clusters  # how jax itself finds out; there is no public name for it

from dino_jax.processes.facts import ERROR, Facts
from dino_jax.processes.lifeline import Lifeline
from dino_jax.processes.patience import MissingProcessesError, Patience, Place
from dino_jax.processes.roll_call import call_the_roll

REPORT_SECONDS = 60.0
TIMEOUT_SECONDS = 600.0
TELL_SECONDS = 60.0  # for processes that start at the same time
JAX_START_SECONDS = 120  # for jax, once all processes are there


def join_processes(
    report_seconds: float = REPORT_SECONDS,
    timeout_seconds: float = TIMEOUT_SECONDS,
    facts: Facts | None = None,
) -> Lifeline:
    """Makes this process one of those of a TPU pod or a Slurm, Open MPI or Kubernetes job.

    Waits for the others; from then on no process outlives another, see `Lifeline`.

    Args:
      report_seconds: time between two lines on stderr about missing processes.
      timeout_seconds: time until `MissingProcessesError`.
      facts: what this process is about to do, which must be the same for all, see `call_the_roll`.

    Raises:
      ValueError: if this process was started by none of these, or the processes do not belong
        together.
      MissingProcessesError: if some processes did not come in time.
    """
    for name, seconds in (("report", report_seconds), ("timeout", timeout_seconds)):
        if not seconds > 0:
            raise ValueError(f"runtime.join_{name}_seconds must be positive, got {seconds}")
    patience = Patience(report_seconds, timeout_seconds)
    place = find_place(patience)
    lifeline = Lifeline(place, call_the_roll(place, patience, facts))
    # SIGTERM is ours: see `interruption`.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        place.address,
        place.count,
        place.process,
        place.local_device_ids,
        initialization_timeout=JAX_START_SECONDS,
    )
    return lifeline


def tell_of_error(error: str) -> None:
    """Meets the other processes only to say why this one cannot start: all of them end with it.

    Args:
      error: for the user.
    """
    patience = Patience(2 * TELL_SECONDS, TELL_SECONDS)
    with contextlib.suppress(ValueError, MissingProcessesError):  # that is how it ends
        call_the_roll(find_place(patience), patience, {ERROR: error})


def find_place(patience: Patience) -> Place:
    """Asks the environment for the number of this process and the count of all.

    Args:
      patience: how long to wait for the name of process 0, which on Kubernetes appears once it
        has started.

    Raises:
      ValueError: if the environment does not say.
      MissingProcessesError: if `patience` runs out.
    """
    while True:
        try:
            address, count, process, devices = (
                clusters.ClusterEnv.auto_detect_unset_distributed_params(
                    os.environ.get("JAX_COORDINATOR_ADDRESS"), None, None, None, None, 5
                )
            )
            break
        except RuntimeError as error:  # the name of process 0 is not known yet
            patience.check(
                f"process 0 missing ({error}). Likely: the command was not started there "
                "(gcloud: --worker=all)"
            )
            time.sleep(1)
    if address is None or count is None or process is None:
        raise ValueError(
            "--distributed needs a TPU pod or a job of Slurm, Open MPI or Kubernetes that tells "
            "this process which one it is; omit the flag for a single process"
        )
    return Place(address, process, count, devices)
