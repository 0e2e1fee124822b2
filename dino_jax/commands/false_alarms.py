"""Hides errors that libraries report where nothing is wrong. Needs no jax, as it must come first.

On processors with AVX-512, XLA (jaxlib 0.10.2) compiles with two hints on tuning, prefer-no-gather
and prefer-no-scatter, misses them among the features of the processor when it reads the program
from the compilation cache, writes two kilobytes about it, and uses the program all the same. Its
lines on errors can only be hidden as a whole and before jax is imported; errors that stop a program
are exceptions or fatal, and stay. With an accelerator nothing is hidden.

libtpu, where it is installed on a machine without TPUs, looks for the kind of TPU and for the names
of the hosts when jax asks which devices there are, and writes five lines about not finding them. It
looks no further if variables name some; nothing is computed with them, as there is no TPU.
"""

import os
import sys
from pathlib import Path

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_FATAL_ONLY = "3"
_OF_JAX = "1"  # jax sets it where nothing is set, and the processes that it starts inherit it
NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
_TPUS = ("accel[0-9]*", "vfio/[0-9]*")
_ACCELERATORS = ("accel*", "vfio/[0-9]*", "nvidia[0-9]*", "kfd")


CPUINFO, DEVICES, PCI = Path("/proc/cpuinfo"), Path("/dev"), Path("/sys/bus/pci/devices")
_GOOGLE = "0x1ae0"  # vendor of PCI devices, as jax looks for TPUs


def hide(cpuinfo: Path = CPUINFO, devices: Path = DEVICES, pci: Path = PCI) -> None:
    """Sets what keeps XLA and libtpu silent, unless the user has set it or it comes too late.

    Args:
      cpuinfo: file that names the features of the processor.
      devices: folder of the devices.
      pci: folder of the devices on the PCI bus.
    """
    if not may_have_tpu(devices, pci):
        for variable, value in NO_TPU.items():
            os.environ.setdefault(variable, value)
    in_time = "jax" not in sys.modules and os.environ.get(_LEVEL, _OF_JAX) == _OF_JAX
    if in_time and _raises_them(cpuinfo) and not _has_accelerator(devices):
        os.environ[_LEVEL] = _FATAL_ONLY


def hidden(cpuinfo: Path = CPUINFO) -> bool:
    """Whether this process shows no false alarms."""
    return os.environ.get(_LEVEL, "") >= _FATAL_ONLY or not _raises_them(cpuinfo)


def may_have_tpu(devices: Path = DEVICES, pci: Path = PCI) -> bool:
    """Whether a TPU is attached, or the environment speaks of one."""
    of_tpus = [name for name in os.environ if name.startswith(("TPU_", "CLOUD_TPU"))]
    told = any(name not in NO_TPU and not name.endswith("_LOG_LEVEL") for name in of_tpus)
    asked = "tpu" in os.environ.get("JAX_PLATFORMS", "") or "JAX_FORCE_TPU_INIT" in os.environ
    return (
        told
        or asked
        or any(next(devices.glob(name), None) for name in _TPUS)
        or any(_read(vendor) == _GOOGLE for vendor in pci.glob("*/vendor"))
    )


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


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
