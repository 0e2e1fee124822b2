"""Lower bounds: no run of this program on these chips can be faster. Nothing here is measured."""

import dataclasses

from dino_jax.plan.cost import Cost
from dino_jax.plan.topology import Slice

SECONDS_PER_DAY, SECONDS_PER_HOUR = 86_400, 3_600


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Bounds of a step and what follows from them for a run.

    Attributes:
      compute: seconds of the FLOPs at the peak of the chip.
      memory: seconds of the HBM traffic at its bandwidth.
      network: seconds of what a device sends at the bandwidth of all its links.
      step: seconds of a step at least, the largest of these.
      estimate: seconds of the compiler's own cycle estimates one after the other, no bound; None
        where the clock of the chip or the cycles of some instructions are not known.
      mfu: model FLOPs utilisation at the bound, at most 1: the share of the peak that goes into
        FLOPs of the recipe, without those that are done twice to save memory.
      images_per_second: of all chips at most.
      images_per_second_per_host: that the input must then supply.
      epochs_per_day: at most.
      chip_hours: of the whole run at least.
    """

    compute: float
    memory: float
    network: float
    step: float
    estimate: float | None
    mfu: float
    images_per_second: float
    images_per_second_per_host: float
    epochs_per_day: float
    chip_hours: float

    @property
    def limit(self) -> str:
        """What the step waits for."""
        return max(("compute", "memory", "network"), key=lambda name: getattr(self, name))


@dataclasses.dataclass(frozen=True)
class Work:
    """What a run is made of.

    Attributes:
      model_flops: per image, see `model_flops`.
      batch_size: images per step, over all devices.
      steps_per_epoch: updates per epoch.
      total_steps: updates of the run.
    """

    model_flops: float
    batch_size: int
    steps_per_epoch: int
    total_steps: int


def compute_bounds(cost: Cost, work: Work, place: Slice) -> Bounds:
    """Bounds of a program.

    Args:
      cost: of one step on one device.
      work: what the step and the run are.
      place: where it runs.
    """
    chip, devices = place.chip, len(place.devices)
    sent = sum(collective.sent for collective in cost.collectives.values())
    compute, memory = cost.flops / chip.peak, cost.bytes / chip.bandwidth
    network = sent / place.ici_bandwidth if sent else 0.0
    step = max(compute, memory, network)
    estimate = None
    if chip.clock and cost.cycles and not cost.kernels:
        estimate = cost.cycles / chip.clock
    rate = work.batch_size / step
    return Bounds(
        compute=compute,
        memory=memory,
        network=network,
        step=step,
        estimate=estimate,
        mfu=work.model_flops * work.batch_size / devices / (chip.peak * step),
        images_per_second=rate,
        images_per_second_per_host=rate / place.hosts,
        epochs_per_day=SECONDS_PER_DAY / (step * work.steps_per_epoch),
        chip_hours=work.total_steps * step * place.chips / SECONDS_PER_HOUR,
    )
