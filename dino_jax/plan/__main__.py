"""Tells before renting what a run needs on TPU slices, and how fast it can be at most.

  dino-jax plan --config=NAME_OR_FILE --topology=v5e:4x4 [--config.a.b=value …]

Compiles the real train step for the slices, without a TPU. Several slices are separated by commas;
the batch size is that of the config for all. Exit code 2 for wrong usage.
"""

import json
import sys
from collections.abc import Sequence

import jax
from rich.console import Console

from dino_jax.commands.arguments import COUNT
from dino_jax.commands.command_line import add_switch, docstring_of, run_command
from dino_jax.commands.config_command import ConfigArguments, config_parser, start_logging
from dino_jax.devices.sharding import make_mesh
from dino_jax.plan.plan import make_plan
from dino_jax.plan.supply import known_supply
from dino_jax.plan.table import plan_values, print_plans
from dino_jax.plan.topology import open_slice
from dino_jax.run.check import check_config
from dino_jax.run.whole_config import parse_run

IMAGENET_1K = 1_281_167  # training images


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


def parse(argv: Sequence[str] | None) -> ConfigArguments:
    """The command line; help and wrong usage end the program."""
    parser = config_parser("plan", __doc__ or docstring_of(__file__))
    add = parser.add_argument
    add("--topology", help="TPU slices, such as v5e:4x4,v5p:4x4x4")
    add(
        "--images",
        type=COUNT,
        default=IMAGENET_1K,
        help=f"images of the training set; default: ImageNet-1k's {IMAGENET_1K:,}",
    )
    add_switch(
        parser, "--search", "look for the largest batch (default), about three times as long", True
    )
    add_switch(parser, "--json", "print one JSON list instead of a table")
    needs = ("config", "topology")
    example = "dino-jax plan --config=vits16_vanilla --topology=v5e:4x4"
    return parse_run(parser, argv, needs, example)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    given = parse(argv)
    start_logging()
    jax.config.update("jax_platforms", "cpu")  # TPUs of this machine are left alone
    return run_command(lambda: plan(given))


if __name__ == "__main__":
    sys.exit(main())
