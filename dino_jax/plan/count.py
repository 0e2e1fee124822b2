"""The compiler's own count of a step: cycles, nothing overlapped. It is not a bound."""

from collections import Counter
from dataclasses import dataclass

from dino_jax.plan.cost import Cost
from dino_jax.plan.kernels import Kernel, UncountedError, count_cycles
from dino_jax.plan.topology import Slice


@dataclass(frozen=True)
class Count:
    """Cycles of a step on one device.

    Attributes:
      xla: sum of the compiler's estimates for XLA's operations.
      kernels: instruction bundles that the compiler makes of the kernels; None if not known.
      missing: why they are not known.
      clock: cycles per second; None where Google does not publish it.
    """

    xla: float
    kernels: float | None
    missing: str
    clock: float | None

    @property
    def step(self) -> float | None:
        """Cycles of both."""
        return None if self.kernels is None else self.xla + self.kernels

    def seconds(self, cycles: float | None) -> float | None:
        """Time of so many cycles; None where they or the clock are not known."""
        return None if cycles is None or self.clock is None else cycles / self.clock


def count_step(cost: Cost, kernels: Counter[Kernel] | str, tpu_slice: Slice) -> Count | None:
    """Counts a step; up to a minute of CPU time for every kernel.

    Args:
      cost: cost of one step on one device.
      kernels: how often each kernel runs in it; or why that is not known.
      tpu_slice: slice that it runs on.

    Returns:
      None if the compiler estimates nothing.
    """
    if not cost.cycles:
        return None
    found, missing = None, kernels if isinstance(kernels, str) else ""
    if not isinstance(kernels, str):
        try:
            found = float(sum(count_cycles(x, tpu_slice.name) * n for x, n in kernels.items()))
        except UncountedError as error:
            missing = str(error)
    return Count(cost.cycles, found, missing, tpu_slice.chip.clock)
