"""Checks of NVIDIA GPUs: the driver, jax's plugin, and settings of the environment."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from dino_jax.doctor.result import Result

# Least driver of the CUDA that each plugin of jax brings (docs.jax.dev, "Installation").
LEAST_DRIVER = {"jax-cuda12-plugin": 525, "jax-cuda13-plugin": 580}
PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"


def has_gpus(devices: Path = Path("/dev")) -> bool:
    """Whether the machine has the device files of NVIDIA GPUs."""
    return any(devices.glob("nvidia[0-9]*"))


def read_driver(file: Path = Path("/proc/driver/nvidia/version")) -> str:
    """Version of the driver, such as "580.95.05"; "" if it is unknown."""
    try:
        found = re.search(r"\s(\d+\.[\d.]+)\s", file.read_text(errors="replace"))
    except OSError:
        return ""
    return found[1] if found else ""


def check_gpu(
    driver: str, installed: Callable[[str], str | None], environment: Mapping[str, str]
) -> Result:
    """What jax needs on a machine with NVIDIA GPUs.

    Args:
      driver: as `read_driver` returns it.
      installed: package name to version, None if it is missing.
      environment: variables of the process.
    """
    plugins = {name: version for name in LEAST_DRIVER if (version := installed(name))}
    if not plugins:
        old = driver and _major(driver) < LEAST_DRIVER["jax-cuda13-plugin"]
        return Result(
            "gpu",
            "WARN",
            "this machine has NVIDIA GPUs, and jax has no plugin for them: it will use the CPU",
            f"pip install -e '.[{'cuda12' if old else 'cuda13'}]'",
        )
    if len(plugins) > 1:
        text = f"two plugins of jax: {', '.join(sorted(plugins))}"
        return Result("gpu", "FAIL", text, f"pip uninstall {min(plugins)} and its parts")
    ((plugin, version),) = plugins.items()
    text = f"{plugin} {version}, driver {driver or 'unknown'}"
    if driver and _major(driver) < LEAST_DRIVER[plugin]:
        return Result(
            "gpu",
            "FAIL",
            f"{text}: it needs driver {LEAST_DRIVER[plugin]} or newer",
            "update the driver, or pip install -e '.[cuda12]'",
        )
    if version != installed("jax"):
        fix = f"pip install '{plugin}=={installed('jax')}'"
        return Result("gpu", "FAIL", f"{text} does not match jax {installed('jax')}", fix)
    if environment.get("LD_LIBRARY_PATH"):
        return Result(
            "gpu",
            "WARN",
            f"{text}; LD_LIBRARY_PATH is set: CUDA and cuDNN found there hide those of the plugin",
            "unset LD_LIBRARY_PATH",
        )
    if environment.get(PREALLOCATE, "true").lower() in ("0", "false"):
        return Result("gpu", "OK", f"{text}; memory is taken as it is needed ({PREALLOCATE})")
    return Result("gpu", "OK", f"{text}; jax takes 75 % of a GPU's memory at its start")


def _major(driver: str) -> int:
    return int(driver.split(".")[0])
