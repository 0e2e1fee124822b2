"""Hides an error that XLA reports where nothing is wrong. Imports nothing, as it must come first.

On processors with AVX-512, XLA (jaxlib 0.10.2) compiles with two hints on tuning, prefer-no-gather
and prefer-no-scatter, misses them among the features of the processor when it reads the program
from the compilation cache, writes two kilobytes about it, and uses the program all the same. Its
lines on errors can only be hidden as a whole and before jax is imported; errors that stop a program
are exceptions or fatal, and stay. With an accelerator nothing is hidden.
"""

import os
import sys
from pathlib import Path

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_FATAL_ONLY = "3"
_ACCELERATORS = ("accel*", "vfio/[0-9]*", "nvidia[0-9]*", "kfd")


CPUINFO, DEVICES = Path("/proc/cpuinfo"), Path("/dev")


def hide(cpuinfo: Path = CPUINFO, devices: Path = DEVICES) -> None:
    """Sets the level below which XLA is silent, unless the user has set it or it comes too late.

    Args:
      cpuinfo: file that names the features of the processor.
      devices: folder of the devices.
    """
    if "jax" not in sys.modules and _raises_them(cpuinfo) and not _has_accelerator(devices):
        os.environ.setdefault(_LEVEL, _FATAL_ONLY)


def hidden(cpuinfo: Path = CPUINFO) -> bool:
    """Whether this process shows no false alarms."""
    return os.environ.get(_LEVEL, "") >= _FATAL_ONLY or not _raises_them(cpuinfo)


def _raises_them(cpuinfo: Path) -> bool:
    try:
        with cpuinfo.open() as file:
            flags = next((line.split() for line in file if line.startswith("flags")), [])
    except OSError:  # not Linux
        return False
    return "avx512f" in flags


def _has_accelerator(devices: Path) -> bool:
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return False
    return any(next(devices.glob(name), None) for name in _ACCELERATORS)
