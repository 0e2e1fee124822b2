"""The work of `dino-jax plan`: plans a run for several slices."""

import json
import sys

import jax
from rich.console import Console

from dino_jax.commands.command_line import run_command
from dino_jax.commands.config_command import ConfigArguments, start_logging
from dino_jax.devices.sharding import make_mesh
from dino_jax.plan.plan import make_plan
from dino_jax.plan.supply import known_supply
from dino_jax.plan.table import plan_values, print_plans
from dino_jax.plan.topology import open_slice
from dino_jax.run.check import check_config


def say(line: str) -> None:
    """Progress, apart from the result."""
    print(line, file=sys.stderr, flush=True)


def plan(given: ConfigArguments) -> str:
    """Plans; returns JSON, or prints a table and returns ""."""
    config, options = given.config, given.options
    slices = [open_slice(name) for name in options.topology.split(",")]
    for tpu_slice in slices:  # all, before the first takes minutes
        mesh = make_mesh(config.runtime.fsdp, tpu_slice.devices)
        check_config(config, options.images, mesh)
    supply = known_supply(config.augment)
    plans = [
        make_plan(config, options.images, tpu_slice, options.search, say) for tpu_slice in slices
    ]
    if options.json:
        return json.dumps([plan_values(plan, supply) for plan in plans], indent=2)
    print_plans(plans, supply, Console(highlight=False, width=40 + 24 * len(plans)))
    return ""


def run(given: ConfigArguments) -> int:
    """Runs the command; returns the exit code."""
    start_logging()
    jax.config.update("jax_platforms", "cpu")  # TPUs of this machine are left alone
    return run_command(lambda: plan(given))
