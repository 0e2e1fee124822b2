"""Can a training start here? python -m dino_jax.doctor [--config=… --workdir=…] [--distributed].

One line per check: OK, WARN or FAIL, and the fix. Exit code 1 if anything fails, 2 for wrong usage.
Takes the options of dino_jax.train; without --config and --workdir it checks the machine only. On a
pod run it on all hosts with --distributed: the first one tells what the others found.
"""

import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging
from jax.experimental import multihost_utils
from ml_collections import config_flags

from dino_jax.commands.command_line import parse_flags
from dino_jax.data.sources import build_source
from dino_jax.devices.libtpu_lock import find_lock
from dino_jax.doctor import machine, run
from dino_jax.doctor.result import (
    Result,
    attempt,
    describe_others,
    describe_result,
    exit_code,
    gather_results,
)
from dino_jax.processes.join import join_processes
from dino_jax.processes.patience import MissingProcessesError
from dino_jax.step.recipe import build_recipe

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run, local or gs://.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "One of several processes, as on a pod.")
_PLATFORM = flags.DEFINE_enum("platform", None, ["cpu", "gpu", "tpu"], "What jax should use.")
_NEED = flags.DEFINE_float("need", 0.0, "Images/s that all devices will take.", lower_bound=0)
_SECONDS = flags.DEFINE_float("seconds", 5.0, "How long to measure the input.", lower_bound=0)


def examine_host(expected: str) -> Iterator[Result]:
    """What can be checked before jax touches a device."""
    requires = _metadata("dino_jax")
    python = requires["Requires-Python"] if requires else ">=3.11"
    yield machine.check_python(platform.python_version(), python)
    bounds = (requires.get_all("Requires-Dist") or []) if requires else None
    yield attempt("packages", lambda: machine.check_packages(bounds, _installed))
    parts = importlib.metadata.requires("jax") or []
    yield attempt("jax parts", lambda: machine.check_jax_parts(parts, _installed, expected))
    yield machine.check_lock(find_lock())
    port = os.environ.get("JAX_COORDINATOR_PORT", str(machine.DEFAULT_PORT))
    yield attempt("port", lambda: machine.check_port(int(port)))


def examine_devices(expected: str) -> Result:
    """What jax sees; from here on the lock of libtpu is ours."""
    first = jax.devices()[0]
    return machine.check_devices(
        first.platform,
        first.device_kind,
        jax.local_device_count(),
        jax.device_count(),
        jax.process_count(),
        expected,
    )


def examine_clocks() -> Result:
    """All processes read their clocks after a barrier; whole seconds apart, as int32 is exact."""
    multihost_utils.sync_global_devices("clocks")
    now = time.time_ns()
    parts = np.array([now // 10**9, now % 10**9], np.int32)
    gathered = np.asarray(multihost_utils.process_allgather(parts), np.float64).reshape(-1, 2)
    return machine.check_clocks((gathered[:, 0] + gathered[:, 1] / 1e9).tolist())


def examine_run(config: Any) -> Iterator[Result]:
    """The images, the config and the input of a run."""
    try:
        source = build_source(config.data)
    except (ImportError, OSError, ValueError) as error:
        yield Result("data", "FAIL", str(error), "give the data set in --config.data")
        return
    yield attempt("data", lambda: run.check_data(source, config.max_pixels))
    yield (checked := attempt("config", lambda: run.check_config(config, len(source))))
    if checked.level == "FAIL":
        return

    def measure() -> Result:
        recipe = build_recipe(config, len(source))
        rate = run.measure_input(source, recipe, config, _SECONDS.value)
        return run.check_input(rate, _NEED.value, jax.process_count())

    yield attempt("input", measure)


def examine() -> Iterator[Result]:
    """What needs devices: all processes come this far or none."""
    if jax.process_count() > 1:
        yield attempt("clocks", examine_clocks)
    if workdir := _WORKDIR.value:
        yield attempt("workdir", lambda: run.check_workdir(workdir))
    if _CONFIG.value:
        yield from examine_run(_CONFIG.value)


def begin(expected: str) -> list[Result]:
    """The host alone, then joins the others; exits if there is nothing to go on with."""
    results = list(examine_host(expected))
    stages = {"devices": lambda: examine_devices(expected)}
    if _DISTRIBUTED.value:
        stages = {"processes": examine_processes, **stages}
    for name, stage in stages.items():
        results.append(attempt(name, stage))
        if results[-1].level == "FAIL":  # nobody to share it with: each process speaks for itself
            print("\n".join(map(describe_result, results)), flush=True)
            sys.exit(1)
    return results


def examine_processes() -> Result:
    """Joins the other processes."""
    try:
        join_processes()
    except (MissingProcessesError, RuntimeError, ValueError) as error:
        return Result("processes", "FAIL", str(error), "start it on all hosts at the same time")
    return Result("processes", "OK", "found each other")


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    results = begin(_PLATFORM.value or machine.expect_platform())
    first = jax.process_index() == 0
    if first:
        print("\n".join(map(describe_result, results)), flush=True)
    else:  # only process 0 listens, and by now it does
        results = [result for result in results if result.name != "port"]
    for result in examine():
        results.append(result)
        if first:
            print(describe_result(result), flush=True)
    gathered = gather_results(results)
    if first and len(gathered) > 1:
        print("\n".join(describe_others(gathered)), flush=True)
    sys.exit(exit_code(gathered))


def _metadata(name: str) -> Any:
    try:
        return importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    app.run(main, flags_parser=partial(parse_flags, required=()))
