"""A run whose crops are cut on the devices: it learns, resumes and works in two processes."""

import signal

import numpy as np
import pytest

from tests.run_train import (
    QUICKSTART,
    SMALL,
    Train,
    close_state,
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
    "augment.canvas": (32, 28),  # digits have 32 x 32 pixels: they are reduced
}


def arguments(workdir, **changes: object) -> list[str]:
    return [QUICKSTART, f"--workdir={workdir}", *overrides(CONFIG | changes)]


def losses(workdir) -> list[float]:
    return [line["loss"] for line in read_metrics(workdir) if "loss" in line]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run on one device."""
    workdir = tmp_path_factory.mktemp("alone")
    code, _, err = run(*arguments(workdir))
    assert (code, err) == (0, "")
    return workdir


def test_twenty_steps_learn_as_with_crops_from_the_workers(alone, tmp_path):
    """The same boxes and colors, so the same losses up to the rounding of pixels."""
    whole = {"augment.canvas": (32, 32)}
    for backend in ("canvas", "device"):
        changes = whole | {"augment.backend": backend}
        assert run(*arguments(tmp_path / backend, **changes)).code == 0
    ours, theirs = losses(tmp_path / "canvas"), losses(tmp_path / "device")
    assert len(ours) == STEPS and len(set(ours)) == STEPS
    np.testing.assert_allclose(ours, theirs, rtol=2e-3)
    assert losses(alone) != ours  # reduced digits are others


def test_two_processes_of_two_devices_make_the_same_steps(alone, tmp_path):
    finished = run_processes(*arguments(tmp_path, **{"runtime.fsdp": 2}), processes=2, devices=2)
    assert [(each.code, each.err) for each in finished] == [(0, "")] * 2
    np.testing.assert_allclose(losses(tmp_path), losses(alone), rtol=1e-5)
    close_state(tmp_path, alone)


def test_an_interrupted_run_with_workers_resumes_bitwise(alone, tmp_path):
    with Train(*arguments(tmp_path, **{"runtime.workers": 2})) as process:
        process.wait_for(f"step 4/{STEPS}")
        process.send(signal.SIGTERM)
        assert process.finish().code == 75
    assert run(*arguments(tmp_path)).code == 0
    ours, theirs = read_state(tmp_path), read_state(alone)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    assert losses(tmp_path) == losses(alone)
