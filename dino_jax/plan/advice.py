"""The largest batch that fits, and what to change in a config that does not fit."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from dino_jax.models.vision_transformer import REMAT_POLICIES
from dino_jax.plan.program import Program
from dino_jax.plan.topology import Slice

RESOLUTION = 8  # the search goes up and down in steps of an eighth to a sixteenth
STATE_SHARE = 0.25  # of the memory; a larger state is worth splitting

Changes = dict[str, Any]  # values of a config by name: {"runtime.fsdp": 4}


class Largest(NamedTuple):
    """Images per device.

    Attributes:
      fits: largest number that compiled; 0 if none did.
      fails: smallest number that did not; None if all that the data set allows fit.
    """

    fits: int
    fails: int | None


def find_largest_batch(
    compile_batch: Callable[[int], Program],
    first: tuple[int, Program],
    limit: float,
    unit: int,
    most: int,
) -> Largest:
    """Bisects the batch per device; each try is a compilation.

    The next try is where the line through the two nearest known points meets the memory, but inside
    the bracket.

    Args:
      compile_batch: compiles the step for some images per device.
      first: images per device and program that are already known.
      limit: bytes of memory.
      unit: the batch must be a multiple of it.
      most: largest number of images per device that the data set allows.
    """
    count, program = first
    known = {0: program.state, count: program.memory}
    fits, fails = (count, None) if program.fits else (0, count)
    while (above := next_batch(fits, unit)) < (fails or most + 1):
        guess = meet(known, limit)
        guess -= guess % grid_step(guess, unit)
        below = (fails or most + 1) - 1
        trial = max(above, min(guess, below - below % grid_step(below, unit)))
        program = compile_batch(trial)
        known[trial] = program.memory
        fits, fails = (trial, fails) if program.fits else (fits, trial)
    return Largest(fits, fails)


def grid_step(batch: int, unit: int) -> int:
    """Distance of the batches that are worth trying near one: the unit times a power of two."""
    return unit * 2 ** max(0, math.floor(math.log2(max(batch, 1) / (unit * RESOLUTION))))


def next_batch(batch: int, unit: int) -> int:
    """The next larger batch that is worth trying."""
    step = grid_step(batch, unit)
    return (batch // step + 1) * step


def meet(known: dict[int, float], limit: float) -> int:
    """Where the line through the two points nearest to the limit meets it; 0 if it does not."""
    nearest = sorted(known.items(), key=lambda point: abs(point[1] - limit))[:2]
    (left, low), (right, high) = sorted(nearest)
    if high <= low:
        return 0
    return max(0, math.floor(left + (limit - low) * (right - left) / (high - low)))


def batch_unit(config: Any, tpu_slice: Slice) -> int:
    """Images per device that every batch of this config must be a multiple of.

    Every pass has the same number, and groups of images that share a draw or a loss do not span
    hosts.
    """
    groups = [getattr(section, "group_size", 0) for section in config.objectives.values()]
    if config.masking.probability:
        groups.append(config.masking.group_size)
    passes, per_host = config.accumulate_steps, len(tpu_slice.devices) // tpu_slice.hosts
    whole = passes * math.lcm(*(group or 1 for group in groups))
    return math.lcm(passes, whole // math.gcd(whole, per_host))


def remedies(config: Any, program: Program, tpu_slice: Slice) -> Iterator[Changes]:
    """Changes that save memory and compute the same, cheapest first.

    Fewer activations are kept for the backward pass first; the state is split only if it is large.
    """
    levels = list(REMAT_POLICIES)
    current = getattr(config.network.backbone, "remat", levels[-1])  # a ResNet has none
    stronger = levels[levels.index(current) + 1 :]
    remats: list[Changes] = [{"network.backbone.remat": level} for level in stronger]
    if program.state < tpu_slice.chip.hbm:
        yield from remats
    degree = wide_degree(config, program, tpu_slice)
    if degree > config.runtime.fsdp:
        for remat in [{}, *remats]:
            yield {"runtime.fsdp": degree, **remat}


def wide_degree(config: Any, program: Program, tpu_slice: Slice) -> int:
    """The smallest fsdp that makes the state small, or all devices."""
    count = len(tpu_slice.devices)
    whole = program.state * config.runtime.fsdp
    degrees = [n for n in range(config.runtime.fsdp, count + 1) if count % n == 0]
    small = [n for n in degrees if whole / n <= STATE_SHARE * tpu_slice.chip.hbm]
    return (small or degrees)[0 if small else -1]


def find_remedy(
    config: Any,
    program: Program,
    tpu_slice: Slice,
    compile_changed: Callable[[Changes], Program],
) -> tuple[Changes, Program] | None:
    """The first of `remedies` with which the step fits; each try is a compilation."""
    for changes in remedies(config, program, tpu_slice):
        changed = compile_changed(changes)
        if changed.fits:
            return changes, changed
    return None
