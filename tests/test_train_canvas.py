"""A run whose crops are cut on the devices: it learns, resumes and works in two processes."""

import signal

import numpy as np
import pytest

from tests.run_train import (
    QUICKSTART,
    SMALL,
    Train,
    overrides,
    read_metrics,
    read_state,
    run,
    run_processes,
)

STEPS = 20
CONFIG = SMALL | {
    "epochs": STEPS / SMALL["steps_per_epoch"],
    "augment.backend": "canvas",
    "augment.canvas": (32, 32),  # a digit
}


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """Arguments of the run in a workdir, with changes of the config."""
    cache = tmp_path_factory.mktemp("compiled")

    def make(workdir, **changes: object) -> list[str]:
        config = CONFIG | {"runtime.compilation_cache": cache} | changes
        return [QUICKSTART, f"--workdir={workdir}", *overrides(config)]

    return make


@pytest.fixture(scope="module")
def alone(arguments, tmp_path_factory):
    """The run on one device."""
    workdir = tmp_path_factory.mktemp("alone")
    assert run(*arguments(workdir)).code == 0
    return workdir


def losses(workdir) -> list[float]:
    return [line["loss"] for line in read_metrics(workdir) if "loss" in line]


def test_twenty_steps_learn_as_with_crops_from_the_workers(arguments, alone, tmp_path):
    """The same boxes and colors, so the same losses up to the rounding of pixels."""
    assert run(*arguments(tmp_path, **{"augment.backend": "device"})).code == 0
    ours, theirs = losses(alone), losses(tmp_path)
    assert len(set(ours)) == len(theirs) == STEPS
    np.testing.assert_allclose(ours, theirs, rtol=2e-3)


def test_two_processes_of_two_devices_make_the_same_steps(arguments, alone, tmp_path):
    finished = run_processes(*arguments(tmp_path, **{"runtime.fsdp": 2}), processes=2, devices=2)
    assert [each.code for each in finished] == [0] * 2, finished
    np.testing.assert_allclose(losses(tmp_path), losses(alone), rtol=1e-5)


def test_an_interrupted_run_with_workers_resumes_bitwise(arguments, alone, tmp_path):
    with Train(*arguments(tmp_path, **{"runtime.workers": 2})) as process:
        process.wait_for(f"step  4/{STEPS}")
        process.send(signal.SIGTERM)
        assert process.finish().code == 75
    assert run(*arguments(tmp_path)).code == 0
    ours, theirs = read_state(tmp_path), read_state(alone)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    assert losses(tmp_path) == losses(alone)
