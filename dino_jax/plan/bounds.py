"""Lower bounds: no run of this program on these chips can be faster. Nothing here is measured."""

import dataclasses

from dino_jax.plan.cost import BETWEEN_SLICES, Cost
from dino_jax.plan.topology import Slice

SECONDS_PER_DAY, SECONDS_PER_HOUR = 86_400, 3_600


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Bounds of a step and what follows from them for a run.

    Attributes:
      compute: seconds of the FLOPs at the peak of the chip.
      memory: seconds of the HBM traffic at its bandwidth.
      network: seconds in which a device sends its data at the bandwidth of all its links;
        what crosses to other slices is not counted.
      step: least seconds of a step, the largest of these.
      mfu: model FLOPs utilization at the bound, at most 1: the share of the peak that goes into
        FLOPs of the recipe, without those that are done twice to save memory.
      images_per_second: rate of all chips, at most.
      images_per_second_per_host: rate that the input must then supply.
      epochs_per_day: epochs per day, at most.
      chip_hours: chip-hours of the whole run, at least.
    """

    compute: float
    memory: float
    network: float
    step: float
    mfu: float
    images_per_second: float
    images_per_second_per_host: float
    epochs_per_day: float
    chip_hours: float

    @property
    def limit(self) -> str:
        """The resource that the step waits for."""
        return max(("compute", "memory", "network"), key=lambda name: getattr(self, name))


@dataclasses.dataclass(frozen=True)
class Work:
    """Amount of work in a run.

    Attributes:
      model_flops: FLOPs per image, see `model_flops`.
      batch_size: images per step, over all devices.
      steps_per_epoch: updates per epoch.
      total_steps: updates of the run.
    """

    model_flops: float
    batch_size: int
    steps_per_epoch: int
    total_steps: int


def compute_bounds(cost: Cost, work: Work, tpu_slice: Slice) -> Bounds:
    """Bounds of a program.

    Args:
      cost: cost of one step on one device.
      work: work of the step and the run.
      tpu_slice: slice that it runs on.
    """
    chip, devices = tpu_slice.chip, len(tpu_slice.devices)
    within = (x for name, x in cost.collectives.items() if name != BETWEEN_SLICES)
    sent = sum(collective.sent for collective in within)
    compute, memory = cost.flops / chip.peak, cost.bytes / chip.bandwidth
    network = sent / tpu_slice.ici_bandwidth if sent else 0.0
    step = max(compute, memory, network)
    rate = work.batch_size / step
    return Bounds(
        compute=compute,
        memory=memory,
        network=network,
        step=step,
        mfu=work.model_flops * work.batch_size / devices / (chip.peak * step),
        images_per_second=rate,
        images_per_second_per_host=rate / tpu_slice.hosts,
        epochs_per_day=SECONDS_PER_DAY / (step * work.steps_per_epoch),
        chip_hours=work.total_steps * step * tpu_slice.chips / SECONDS_PER_HOUR,
    )
