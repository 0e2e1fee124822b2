"""Plans before renting: python -m dino_jax.plan --config=configs/NAME.py --topology=v5e:4x4.

Compiles the real train step for TPU slices, without a TPU, and says what it needs and how fast it
can be at most. Several slices are separated by commas; the batch size is that of the config for
all. Exit code 2 for wrong usage.
"""

import json
import sys
from functools import partial

import jax
from absl import app, flags, logging
from ml_collections import config_flags
from rich.console import Console

from dino_jax.commands.command_line import UsageError, fail, mendable, parse_flags
from dino_jax.devices.sharding import check_batch, make_mesh
from dino_jax.plan.plan import make_plan
from dino_jax.plan.supply import known_supply
from dino_jax.plan.table import plan_values, print_plans
from dino_jax.plan.topology import open_slice

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file.", lock_config=True)
_TOPOLOGY = flags.DEFINE_list("topology", None, "TPU slices, such as v5e:4x4,v5p:4x4x4.")
_IMAGES = flags.DEFINE_integer(
    "images", 1_281_167, "Images of the training set; by default ImageNet-1k's.", lower_bound=1
)
_SEARCH = flags.DEFINE_bool("search", True, "Look for the largest batch: about three times as long")
_JSON = flags.DEFINE_bool("json", False, "Print one JSON list instead of a table.")


def say(line: str) -> None:
    """Progress, apart from the result."""
    print(line, file=sys.stderr, flush=True)


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    jax.config.update("jax_platforms", "cpu")  # TPUs of this machine are left alone
    config = _CONFIG.value
    try:
        with mendable():
            places = [open_slice(name) for name in _TOPOLOGY.value or ()]
            for place in places:  # all, before the first takes minutes
                mesh = make_mesh(config.runtime.fsdp, place.devices)
                check_batch(config, mesh)
            supply = known_supply(config.augment)
            plans = [
                make_plan(config, _IMAGES.value, place, _SEARCH.value, say) for place in places
            ]
    except UsageError as error:
        fail(error)
    if _JSON.value:
        print(json.dumps([plan_values(plan, supply) for plan in plans], indent=2))
    else:
        print_plans(plans, supply, Console(highlight=False, width=40 + 24 * len(plans)))


if __name__ == "__main__":
    required = ("config", "topology")
    example = "dino_jax.plan --config=configs/vits16_vanilla.py --topology=v5e:4x4"
    app.run(main, flags_parser=partial(parse_flags, required=required, example=example))
