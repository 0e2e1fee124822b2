"""What doctor says on machines with NVIDIA GPUs; all of them are made up."""

import pytest

from dino_jax.doctor.gpu import check_gpu, has_gpus, read_driver

VERSION = """\
NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build
GCC version:  gcc version 13.3.0
"""


def test_device_files_and_the_version_of_the_driver_are_found(tmp_path):
    assert not has_gpus(tmp_path)
    (tmp_path / "nvidiactl").touch()
    assert not has_gpus(tmp_path)
    (tmp_path / "nvidia0").touch()
    assert has_gpus(tmp_path)
    assert read_driver(tmp_path / "version") == ""
    (tmp_path / "version").write_text(VERSION)
    assert read_driver(tmp_path / "version") == "580.95.05"


CASES = {
    "no plugin": ("580.1", {}, {}, "WARN", "no plugin", "cuda13"),
    "no plugin, old driver": ("550.1", {}, {}, "WARN", "no plugin", "cuda12"),
    "all is well": ("580.1", {"jax-cuda13-plugin": "0.10.2"}, {}, "OK", "75 %", ""),
    "memory as needed": (
        "580.1",
        {"jax-cuda13-plugin": "0.10.2"},
        {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        "OK",
        "as it is needed",
        "",
    ),
    "old driver": ("550.1", {"jax-cuda13-plugin": "0.10.2"}, {}, "FAIL", "driver 580", "cuda12"),
    "another version": (
        "580.1",
        {"jax-cuda12-plugin": "0.9.0"},
        {},
        "FAIL",
        "does not match jax 0.10.2",
        "jax-cuda12-plugin==0.10.2",
    ),
    "both plugins": (
        "580.1",
        {"jax-cuda12-plugin": "0.10.2", "jax-cuda13-plugin": "0.10.2"},
        {},
        "FAIL",
        "two plugins",
        "uninstall",
    ),
    "other libraries": (
        "580.1",
        {"jax-cuda13-plugin": "0.10.2"},
        {"LD_LIBRARY_PATH": "/usr/local/cuda/lib64"},
        "WARN",
        "LD_LIBRARY_PATH",
        "unset",
    ),
    "unknown driver": ("", {"jax-cuda13-plugin": "0.10.2"}, {}, "OK", "driver unknown", ""),
}


@pytest.mark.parametrize("name", CASES)
def test_each_state_of_a_gpu_machine_is_said_with_its_remedy(name):
    driver, plugins, environment, level, text, fix = CASES[name]
    installed = {"jax": "0.10.2", **plugins}
    result = check_gpu(driver, installed.get, environment)
    assert result.level == level
    assert text in result.text
    assert fix in (result.fix or "")
