"""Libraries are silent about what is not there, and speak of what is."""

import os
import subprocess
import sys

import pytest

from dino_jax.commands import false_alarms


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine without devices, and an environment that does not speak of TPUs."""
    for name in [x for x in os.environ if x.startswith(("TPU_", "JAX_PLATFORMS"))]:
        monkeypatch.delenv(name)
    for name in ("dev", "pci/0000:00:03.0"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "pci/0000:00:03.0/vendor").write_text("0x1af4\n")
    return tmp_path


def hide(machine) -> set[str]:
    before = set(os.environ)
    false_alarms.hide(machine / "cpuinfo", machine / "dev", machine / "pci")
    return {name for name in os.environ if name.startswith("TPU_")} - before


def test_without_a_tpu_libtpu_looks_for_none(machine, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    assert hide(machine) == set(false_alarms.NO_TPU)


@pytest.mark.parametrize("file", ["dev/accel0", "dev/vfio/0", "pci/a/vendor"])
def test_with_a_tpu_nothing_is_hidden(machine, monkeypatch, file):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    (machine / file).parent.mkdir(exist_ok=True)
    (machine / file).write_text("0x1ae0\n")
    assert hide(machine) == set()


@pytest.mark.parametrize(
    ("name", "value"), [("TPU_NAME", "pod"), ("JAX_PLATFORMS", "tpu,cpu"), ("TPU_WORKER_ID", "0")]
)
def test_nothing_is_hidden_if_the_environment_speaks_of_tpus(machine, monkeypatch, name, value):
    monkeypatch.setattr(os, "environ", os.environ | {name: value})
    assert hide(machine) == set()


def test_a_machine_without_tpus_says_nothing_about_tpus():
    told = ("TPU_", "JAX_PLATFORMS", "XLA_FLAGS", "TF_CPP")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(told)}
    environment |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}  # whoever else has it open
    code = "import dino_jax, jax; print(jax.devices()[0].platform)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("cpu\n", "")
