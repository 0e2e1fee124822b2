"""Checks of the machine: versions, devices, the lock file of libtpu, the port, the clocks."""

import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from dino_jax.devices.libtpu_lock import LockState
from dino_jax.doctor.result import Result

DEFAULT_PORT = 8482  # jax's own on TPUs, if JAX_COORDINATOR_PORT is not set
WARN_SKEW, FAIL_SKEW = 1.0, 60.0  # seconds
_INSTALL = "pip install -e '.[tpu,gcs]' (without tpu and gcs on other machines)"


def check_python(version: str, requires: str) -> Result:
    """The interpreter against python_requires of setup.py, such as ">=3.11"."""
    from packaging.specifiers import SpecifierSet

    if SpecifierSet(requires).contains(version, prereleases=True):
        return Result("python", "OK", f"{version} (setup.py: {requires})")
    return Result(
        "python",
        "FAIL",
        f"{version}, but setup.py has {requires}",
        "make an environment with another Python: uv venv --python 3.12",
    )


def find_misfits(
    requirements: Iterable[str], installed: Callable[[str], str | None], extra: str = ""
) -> list[str]:
    """Names the requirements that are not met.

    Args:
      requirements: as in package metadata: "jax<0.11,>=0.10.2", 'libtpu==0.0.42.*; extra == "tpu"'.
      installed: package name to version, None if it is missing.
      extra: only what this extra adds, "" for what is always needed.
    """
    from packaging.requirements import Requirement

    misfits = []
    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        of_extra = marker is not None and "extra" in str(marker)
        if of_extra != bool(extra) or (marker and not marker.evaluate({"extra": extra})):
            continue
        version = installed(requirement.name)
        if version is None:
            misfits.append(f"{requirement.name} is missing (needs {requirement.specifier})")
        elif not requirement.specifier.contains(version, prereleases=True):
            misfits.append(f"{requirement.name} {version} (needs {requirement.specifier})")
    return misfits


def check_packages(
    requirements: Sequence[str] | None, installed: Callable[[str], str | None]
) -> Result:
    """The packages against the bounds of setup.py.

    Args:
      requirements: requirements of dino_jax; None if it is not installed but found in the
        current folder.
      installed: package name to version.
    """
    if requirements is None:
        text = "dino_jax is not installed, so the bounds of setup.py are unknown here"
        return Result("packages", "WARN", text, _INSTALL)
    misfits = find_misfits(requirements, installed)
    if misfits:
        return Result("packages", "FAIL", "\n".join(misfits), _INSTALL)
    return Result("packages", "OK", f"jax {installed('jax')} and all others fit setup.py")


def check_jax_parts(
    requirements: Sequence[str], installed: Callable[[str], str | None], platform: str
) -> Result:
    """jaxlib and libtpu against the jax that is there.

    Args:
      requirements: requirements of jax.
      installed: package name to version.
      platform: expected platform; "tpu" needs libtpu.
    """
    misfits = find_misfits(requirements, installed)
    if platform == "tpu" or installed("libtpu"):
        misfits += find_misfits(requirements, installed, extra="tpu")
    if misfits:
        text = f"jax {installed('jax')} does not match: " + ", ".join(misfits)
        return Result("jax parts", "FAIL", text, f"pip install 'jax[tpu]=={installed('jax')}'")
    libtpu = installed("libtpu")
    tpu = f"libtpu {libtpu}" if libtpu else "no libtpu, which only TPUs need"
    return Result("jax parts", "OK", f"jaxlib {installed('jaxlib')}, {tpu}")


def expect_platform(devices: Path = Path("/dev")) -> str:
    """ "tpu" if the machine has the device files of TPUs, else "": anything is fine."""
    found = [*devices.glob("accel[0-9]*"), *devices.glob("vfio/[0-9]*")]
    return "tpu" if found else ""


def check_devices(
    platform: str, kind: str, local: int, total: int, processes: int, expected: str
) -> Result:
    """Compares the devices that jax sees with the expected platform.

    Args:
      platform: platform of the devices: cpu, gpu, tpu.
      kind: kind of device, such as "TPU v5 lite".
      local: devices of this process.
      total: devices of all processes.
      processes: number of processes.
      expected: expected platform, "" for any.
    """
    text = f"{total} x {kind}, {local} of them here, {processes} process(es)"
    if expected and platform != expected:
        return Result(
            "devices",
            "FAIL",
            f"{text}: {platform}, but expected {expected}",
            f"unset JAX_PLATFORMS, {_INSTALL}; the lock file above may be taken",
        )
    if total != local * processes:
        text += f": not the same number on each of the {processes}"
        return Result("devices", "WARN", text, "look for a host with chips that jax does not see")
    return Result("devices", "OK", text)


def check_lock(lock: LockState) -> Result:
    """The lock file of libtpu."""
    return Result("lock file", "OK" if lock.free else "FAIL", lock.text, lock.fix)


def check_port(port: int) -> Result:
    """Whether this host can listen on the port where the processes meet, as process 0 does."""
    try:
        with socket.socket() as probe:
            # Without it a port that was used a minute ago would count as taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
            probe.listen()
    except (OSError, OverflowError) as error:
        return Result(
            "port",
            "FAIL",
            f"{port} cannot be used: {error}",
            "end the other run on this host, or set JAX_COORDINATOR_PORT=8477 on all hosts",
        )
    return Result("port", "OK", f"{port} is free")


def check_clocks(times: Sequence[float]) -> Result:
    """Compares the clocks of all hosts, read at the same moment.

    Args:
      times: seconds since 1970, by process.
    """
    low, high = min(times), max(times)
    skew = high - low
    text = f"{skew:.3f} s apart (processes {times.index(low)} and {times.index(high)})"
    if skew < WARN_SKEW:
        return Result("clocks", "OK", text)
    fix = "set the clock: sudo systemctl restart chrony (or systemd-timesyncd), then timedatectl"
    return Result("clocks", "WARN" if skew < FAIL_SKEW else "FAIL", text, fix)
