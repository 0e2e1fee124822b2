"""The work of `dino-jax doctor`: all checks, one after the other."""

import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from dino_jax.commands.config_command import ConfigArguments, start_logging
from dino_jax.data.sources import build_source
from dino_jax.data.worker_process import start_workers_alone
from dino_jax.devices.libtpu_lock import find_lock
from dino_jax.devices.sharding import make_mesh
from dino_jax.doctor import machine, run
from dino_jax.doctor.gpu import check_gpu, has_gpus, read_driver
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
from dino_jax.run.check import check_config
from dino_jax.run.whole_config import Config


def examine_host(expected: str) -> Iterator[Result]:
    """Checks that run before jax touches a device."""
    requires = _metadata("dino_jax")
    python = requires["Requires-Python"] if requires else ">=3.11"
    yield machine.check_python(platform.python_version(), python)
    bounds = (requires.get_all("Requires-Dist") or []) if requires else None
    yield attempt("packages", lambda: machine.check_packages(bounds, _installed))
    parts = importlib.metadata.requires("jax") or []
    yield attempt("jax parts", lambda: machine.check_jax_parts(parts, _installed, expected))
    if has_gpus():
        yield check_gpu(read_driver(), _installed, os.environ)
    yield machine.check_lock(find_lock())
    port = os.environ.get("JAX_COORDINATOR_PORT", str(machine.DEFAULT_PORT))
    yield attempt("port", lambda: machine.check_port(int(port)))


def examine_devices(expected: str) -> Result:
    """Checks the devices that jax sees; from here on we hold the lock of libtpu."""
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


def examine_run(config: Config, workdir: str, need: float, seconds: float) -> Iterator[Result]:
    """The images, the config and the input of a run."""
    try:
        source = build_source(config.data)
    except (ImportError, OSError, ValueError) as error:
        yield Result("data", "FAIL", str(error), "give the data set in --config.data")
        return
    yield attempt("data", lambda: run.check_data(source, config.max_pixels))
    yield (checked := attempt("config", lambda: run.examine_config(config, len(source), workdir)))
    if checked.level == "FAIL":
        return

    def measure() -> Result:
        mesh = make_mesh(config.runtime.fsdp)
        recipe = check_config(config, len(source), mesh, workdir).recipe
        rate = run.measure_input(source, recipe, config, seconds)
        return run.check_input(rate, need, jax.process_count())

    yield attempt("input", measure)


def examine(given: ConfigArguments) -> Iterator[Result]:
    """Checks that need devices: all processes come this far or none."""
    if jax.process_count() > 1:
        yield attempt("clocks", examine_clocks)
    if workdir := given.options.workdir:
        yield attempt("workdir", lambda: run.check_workdir(workdir))
    if given.config is not None:
        yield from examine_run(
            given.config, workdir or "", given.options.need, given.options.seconds
        )


def begin(expected: str, distributed: bool) -> list[Result]:
    """The host alone, then joins the others; exits if nothing is left to check."""
    results = list(examine_host(expected))
    stages = {"devices": lambda: examine_devices(expected)}
    if distributed:
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


def run_checks(given: ConfigArguments) -> int:
    """Runs the command; returns the exit code."""
    start_logging()
    start_workers_alone()
    results = begin(given.options.platform or machine.expect_platform(), given.options.distributed)
    first = jax.process_index() == 0
    if first:
        print("\n".join(map(describe_result, results)), flush=True)
    else:  # only process 0 listens, and by now it does
        results = [result for result in results if result.name != "port"]
    for result in examine(given):
        results.append(result)
        if first:
            print(describe_result(result), flush=True)
    gathered = gather_results(results)
    if first and len(gathered) > 1:
        print("\n".join(describe_others(gathered)), flush=True)
    return exit_code(gathered)


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
