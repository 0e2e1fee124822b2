"""What every method is given: the same number of image-views, or the same FLOPs of the encoder."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from dino_jax.commands.config_file import load_config
from dino_jax.config.change import change
from dino_jax.data.sources import build_source
from dino_jax.plan.model_flops import encoder_flops_per_image, model_flops_per_image
from dino_jax.run.whole_config import Config, complete_config, read_config
from dino_jax.step.recipe import build_recipe

CONFIGS = {
    "dino": "quickstart",
    "dinov2": "digits_dinov2",
    "simclr": "digits_simclr",
    "byol": "digits_byol",
    "mocov3": "digits_mocov3",
    "mae": "digits_mae",
    "simdino": "digits_simdino",
}
REFERENCE = "dino"  # the method whose images give the budgets
BUDGETS = ("views", "flops")
POINTS = 4  # measurements of a run after the one before it

Changes = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one image costs a method.

    Attributes:
      views: crops of it.
      encoder_flops: FLOPs of all backbones in a step, forward and backward.
      step_flops: FLOPs of the whole step, with heads and decoder.
    """

    views: int
    encoder_flops: float
    step_flops: float


@dataclasses.dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
      method: key of `CONFIGS`.
      steps: its length, a multiple of `POINTS`.
      seed: its seed.
    """

    method: str
    steps: int
    seed: int

    @property
    def name(self) -> str:
        """Folder of the run in that of its images."""
        return f"{self.method}-{self.steps}-{self.seed}"

    @property
    def every_steps(self) -> int:
        """Steps between two measurements."""
        return self.steps // POINTS


def config_of(method: str, changes: Mapping[str, Any]) -> Config:
    """The shipped config of a method with changes; those of crops that it lacks are left out."""
    config = read_config(complete_config(load_config(CONFIGS[method])))
    return change(config, fitting(method, changes))


def fitting(method: str, changes: Mapping[str, Any]) -> Changes:
    """Changes, with those for all crops ("augment.crops.*.NAME") and for the method's own alone.

    The more special ones win: "METHOD:…" over "augment.crops.CROP…" over "augment.crops.*…".
    """
    crops = load_config(CONFIGS[method]).augment.crops
    found: Changes = {}
    for name, value in changes.items():
        owner, _, option = name.rpartition(":")
        if owner and method not in owner.split(","):
            continue
        start, _, field = option.partition("augment.crops.")[2].partition(".")
        if not start:
            found[option] = value
            continue
        for crop in crops if start == "*" else [start]:
            if crop in crops:
                found[f"augment.crops.{crop}.{field}"] = value
    return found


@functools.cache
def _cost(method: str) -> Cost:
    config = config_of(method, {})
    images = len(build_source(config.data, "config.data"))
    recipe = build_recipe(config, images)
    return Cost(
        sum(recipe.views.values()),
        encoder_flops_per_image(config, images),
        model_flops_per_image(config, images),
    )


def costs() -> dict[str, Cost]:
    """Costs by method; they are the same for all images of a comparison."""
    return {method: _cost(method) for method in CONFIGS}


def steps_of(budget: str, images: int) -> dict[str, int]:
    """Steps of every method.

    Args:
      budget: one of `BUDGETS`.
      images: images that the reference sees.

    Raises:
      ValueError: if the budget is unknown.
    """
    if budget not in BUDGETS:
        raise ValueError(f"unknown budget {budget!r}; known: {BUDGETS}")
    field = {"views": "views", "flops": "encoder_flops"}[budget]
    cost = {method: getattr(one, field) for method, one in costs().items()}
    batch = config_of(REFERENCE, {}).batch_size
    return {
        method: POINTS * round(images * cost[REFERENCE] / cost[method] / batch / POINTS)
        for method in CONFIGS
    }


def runs_of(budget: str, images: int, seeds: int) -> Iterator[Run]:
    """All runs of a budget, a seed after the other; see `steps_of`."""
    for seed in range(seeds):
        for method, steps in steps_of(budget, images).items():
            yield Run(method, steps, seed)


def describe_costs() -> list[str]:
    """Lines of a Markdown table."""
    found = costs()
    base = found[REFERENCE].encoder_flops
    lines = [
        "| method | views | encoder, MFLOP | whole step, MFLOP | encoder / DINO's |",
        "|---|---|---|---|---|",
    ]
    for method, cost in found.items():
        flops = f"{cost.encoder_flops / 1e6:.1f} | {cost.step_flops / 1e6:.1f}"
        share = cost.encoder_flops / base
        lines.append(f"| {method} | {cost.views} | {flops} | {share:.2f} |")
    return lines
