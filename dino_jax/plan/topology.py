"""TPU slices by name, such as v5e:4x4: what a chip can do, and the devices to compile for.

The devices come from libtpu, which knows all slices without having one.
"""

import math
import os
import re
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies

from dino_jax.commands import false_alarms
from dino_jax.devices.libtpu_lock import find_lock

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """Figures of one device as jax shows it: a chip, or half of one for TPU7x.

    Attributes:
      name: name of the generation.
      peak: FLOP/s in bfloat16.
      hbm: bytes that a program can use; the rest is the runtime's.
      bandwidth: bandwidth of the HBM, bytes/s.
      link: bytes/s that one link to a neighbor carries in one direction.
      clock: Hz; None where Google's figures do not determine it.
      devices: devices per chip.
      options: options of `get_topology_desc`.
    """

    name: str
    peak: float
    hbm: float
    bandwidth: float
    link: float
    clock: float | None
    devices: int = 1
    options: tuple[tuple[str, str], ...] = ()


_MEGACORE = (("chip_config_name", "megacore"),)  # one device per chip, as in a run
# Peaks, bandwidths and links (half the bidirectional ICI bandwidth of a chip over its links): Key
# specifications on docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}. Usable memory: what
# libtpu 0.0.42.1 says when a program is too large. Clock: peak / (2 * 128**2 * MXUs).
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, 30.75 * GIB, 1228e9, 50e9, 1.05e9, options=_MEGACORE),
        Chip("v5e", 197e12, 15.75 * GIB, 819e9, 50e9, 1.5e9),
        Chip("v5p", 459e12, 95.74 * GIB, 2765e9, 100e9, 1.75e9),
        Chip("v6e", 918e12, 31.25 * GIB, 1638e9, 100e9, None),
        Chip("tpu7x", 2307e12 / 2, 94.75 * GIB, 7380e9 / 2, 100e9, None, devices=2),
    )
}


@dataclass(frozen=True)
class Slice:
    """A TPU slice, or several of one kind.

    Attributes:
      name: such as "v5e:4x4", or "2xv5e:4x4" for two.
      chip: kind of its chips.
      shape: chips along the axes of the torus of one.
      devices: devices to compile for.
      hosts: number of VMs, each of which reads its share of the images.
      count: number of slices.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    devices: tuple[Any, ...]
    hosts: int
    count: int = 1

    @property
    def chips(self) -> int:
        return math.prod(self.shape) * self.count

    @property
    def ici_bandwidth(self) -> float:
        """Bytes/s that a device can send at most: two links per axis, one on an axis of two."""
        links = sum(min(size - 1, 2) for size in self.shape)
        return links * self.chip.link / self.chip.devices


def parse_topology(name: str) -> tuple[Chip, tuple[int, ...]]:
    """Chip and shape of a name such as "v5e:4x4".

    Raises:
      ValueError: for an unknown chip, or a shape without two (v5e, v6e) or three axes.
    """
    match = re.fullmatch(r"([a-z]\w*):(\d+(?:x\d+)+)", name.removeprefix(_times(name)))
    if not match:
        raise ValueError(
            f"--topology {name!r} is not a slice; a slice is a chip and its shape, such as "
            "v5e:4x4, v5p:4x4x4, v6e:16x16, or 2xv5e:16x16 for two of them; several are separated "
            "by commas"
        )
    if match[1] not in CHIPS:
        raise ValueError(f"unknown chip {match[1]!r} in --topology {name!r}; known: {list(CHIPS)}")
    chip, shape = CHIPS[match[1]], tuple(map(int, match[2].split("x")))
    axes = 2 if chip.name in ("v5e", "v6e") else 3
    if len(shape) != axes or min(shape) < 1:
        example = "4x4" if axes == 2 else "4x4x4"
        raise ValueError(
            f"a {chip.name} slice has {axes} axes, got --topology {name!r}; for example "
            f"{chip.name}:{example}"
        )
    return chip, shape


def _times(name: str) -> str:
    """The "2x" of two slices "2xv5e:4x4"; "" for one."""
    match = re.match(r"[1-9]\d{0,3}x", name)
    return match[0] if match else ""


def open_slice(name: str) -> Slice:
    """The devices of a slice, from libtpu.

    Raises:
      ValueError: if there is no such slice.
      OSError: if libtpu is missing or in use.
    """
    chip, shape = parse_topology(name)
    prepare_libtpu()
    try:
        times = _times(name)
        count, one = int(times[:-1] or 1), name.removeprefix(times)
        options: dict[str, Any] = dict(chip.options) | ({"num_slices": count} if count > 1 else {})
        found = topologies.get_topology_desc(one, "tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        if "lockfile" in reason:
            raise OSError(describe_lock(reason)) from error
        raise ValueError(f"libtpu knows no slice {name!r}: {reason}") from error
    hosts = len({device.process_index for device in found})
    return Slice(name, chip, shape, tuple(found), hosts, count)


def prepare_libtpu() -> None:
    """Keeps libtpu from looking for TPUs and from printing that there are none.

    Raises:
      OSError: if it is not installed.
    """
    try:
        import libtpu  # noqa: F401  # pyright: ignore
    except ImportError as error:
        raise OSError(
            "the TPU compiler (libtpu) is not installed: pip install -e '.[tpu]'"
        ) from error
    quiet = {"TPU_MIN_LOG_LEVEL": "3", "TF_CPP_MIN_LOG_LEVEL": "3"}
    for variable, value in (quiet | false_alarms.NO_TPU).items():
        os.environ.setdefault(variable, value)


def describe_lock(reason: str) -> str:
    """Names the process that keeps libtpu from being loaded, and the fix."""
    lock = find_lock()
    if lock.free:
        return f"libtpu cannot be loaded: {reason}"
    return (
        f"libtpu is in use: {lock.text}; {lock.fix}; or set ALLOW_MULTIPLE_LIBTPU_LOAD=1: "
        "planning touches no chip"
    )
