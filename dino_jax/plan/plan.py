"""Everything that planning finds out about a config on one slice."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from dino_jax.config.change import change
from dino_jax.devices.sharding import make_mesh
from dino_jax.plan.advice import Changes, Largest, batch_unit, find_largest_batch, find_remedy
from dino_jax.plan.bounds import Bounds, Work, compute_bounds
from dino_jax.plan.count import Count, count_step
from dino_jax.plan.model_flops import model_flops_per_image
from dino_jax.plan.program import GIB, Program, compile_step
from dino_jax.plan.topology import Slice
from dino_jax.run.check import check_config
from dino_jax.run.whole_config import Config


@dataclasses.dataclass(frozen=True)
class Plan:
    """A config on a slice.

    Attributes:
      tpu_slice: the slice.
      batch_size: images per step, over all devices.
      work: work of the step and the run.
      program: the step as the config has it.
      bounds: its bounds, or those of the program with the remedy; None if neither fits or can be
        read.
      count: the compiler's own count of the same program; None if it estimates nothing.
      largest: batch per device; None if it was not searched for.
      remedy: changes with which the step fits, and its program; None if it fits or nothing helps.
      seconds: time that all this took.
    """

    tpu_slice: Slice
    work: Work
    program: Program
    bounds: Bounds | None
    count: Count | None
    largest: Largest | None
    remedy: tuple[Changes, Program] | None
    seconds: float

    @property
    def runnable(self) -> Program | None:
        """The program that the bounds are of."""
        if self.program.fits:
            return self.program
        return self.remedy[1] if self.remedy else None


def make_plan(
    config: Config, images: int, tpu_slice: Slice, search: bool, say: Callable[[str], None]
) -> Plan:
    """Compiles for a slice until all questions are answered; minutes of CPU time per program.

    Args:
      config: the whole config.
      images: number of images of the training set.
      tpu_slice: the slice.
      search: whether to look for the largest batch.
      say: takes a line about each compilation.

    Raises:
      ValueError: as in dino_jax.train, if the config is inconsistent or does not fit the slice.
    """
    start = time.monotonic()
    mesh = make_mesh(config.runtime.fsdp, tpu_slice.devices)
    recipe = check_config(config, images, mesh).recipe
    flops = model_flops_per_image(config, images)
    work = Work(flops, config.batch_size, recipe.steps_per_epoch, recipe.total_steps)

    def compile_changed(changes: Changes) -> Program:
        program = compile_step(change(config, changes), images, tpu_slice)
        say(describe_program(tpu_slice, config, changes, program))
        return program

    program = compile_changed({})
    remedy = None if program.fits else find_remedy(config, program, tpu_slice, compile_changed)
    devices = len(tpu_slice.devices)
    largest = None
    if search:
        largest = find_largest_batch(
            lambda count: compile_changed({"batch_size": count * devices}),
            (config.batch_size // devices, program),
            tpu_slice.chip.hbm,
            batch_unit(config, tpu_slice),
            images // devices,
        )
    runnable = program if program.fits else remedy and remedy[1]
    cost = runnable.cost if runnable else None
    bounds = compute_bounds(cost, work, tpu_slice) if cost else None
    count = count_step(cost, runnable.kernels, tpu_slice) if runnable and cost else None
    seconds = time.monotonic() - start
    return Plan(tpu_slice, work, program, bounds, count, largest, remedy, seconds)


def describe_program(tpu_slice: Slice, config: Any, changes: Changes, program: Program) -> str:
    """One line about a compilation."""
    batch = changes.get("batch_size", config.batch_size)
    others = [f"{name.split('.')[-1]} {changes[name]}" for name in changes if name != "batch_size"]
    verdict = "fits" if program.fits else "does not fit"
    what = ", ".join(
        [f"{tpu_slice.name}: {batch // len(tpu_slice.devices)} images per device", *others]
    )
    return (
        f"{what}: {program.memory / GIB:.2f} of {tpu_slice.chip.hbm / GIB:.2f} GiB, {verdict} "
        f"({program.seconds:.0f} s)"
    )
