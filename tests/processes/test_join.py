"""Joining: what a process must know of itself before it can look for others."""

import os

import pytest

from dino_jax.processes.join import find_place, join_processes
from dino_jax.processes.patience import Patience
from tests.run_train import slurm_of


@pytest.fixture
def environment(monkeypatch):
    """An environment that says nothing about other processes."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "JAX_COORDINATOR_", "OMPI_")):
            monkeypatch.delenv(name)
    return monkeypatch


def test_a_process_that_nobody_told_which_one_it_is_cannot_join(environment):
    with pytest.raises(ValueError, match="--distributed needs a TPU pod or a job of Slurm"):
        join_processes()


def test_a_job_tells_a_process_which_one_it_is(environment):
    slurm = slurm_of(4) | {"SLURM_PROCID": "3"}
    for name, value in slurm.items():
        environment.setenv(name, value)
    place = find_place(Patience(60.0, 600.0))
    assert (place.process, place.count) == (3, 4)
    assert (place.host, str(place.port)) == ("localhost", slurm["JAX_COORDINATOR_PORT"])


@pytest.mark.parametrize("name", ["report", "timeout"])
def test_times_that_are_not_positive_are_errors(name):
    with pytest.raises(ValueError, match=f"runtime.join_{name}_seconds must be positive, got 0"):
        join_processes(**{f"{name}_seconds": 0.0})
