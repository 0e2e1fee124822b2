"""Measured speed of the input, to compare with the speed of a slice."""

from dataclasses import dataclass
from typing import Any

from dino_jax.data.multi_crop import build_multi_crop

# Images per CPU second of one core of an AMD EPYC (Zen 5), photographs in memory, by back end:
# python -m tests.benchmarks.input. For these crops only; canvas was not measured on an idle core.
MEASURED = {"host": 457, "device": 613}
MEASURED_CROPS = {"global": (2, (224, 224)), "local": (8, (96, 96))}  # count and size by group


@dataclass(frozen=True)
class Supply:
    """Speed of the input.

    Attributes:
      per_core: images/s of one core; None if it was not measured for the crops and the back end.
    """

    per_core: float | None


def known_supply(augment: Any) -> Supply:
    """The measured speed for the crops of `config.augment`."""
    groups = build_multi_crop(augment).groups
    crops = {name: (len(group.crops), group.size) for name, group in groups.items()}
    return Supply(MEASURED.get(augment.backend) if crops == MEASURED_CROPS else None)
