"""The real command as the processes of a pod: some are missing, some are told to stop."""

import re
import signal

import pytest

from tests.run_train import (
    FEWER,
    QUICKSTART,
    SMALL,
    STEPS,
    Job,
    Train,
    checkpoint_steps,
    overrides,
    slurm_of,
)


def test_a_process_that_waits_for_others_in_vain_says_so_and_ends_with_75(tmp_path):
    config = {"runtime.join_report_seconds": 1.0, "runtime.join_timeout_seconds": 2.5}
    arguments = [QUICKSTART, f"--workdir={tmp_path}", *overrides(SMALL | config), "--distributed"]
    environment = slurm_of(2) | {"SLURM_PROCID": "0"}
    with Train(*arguments, environment=environment) as process:
        code, out, err = process.finish()
    assert (code, out, list(tmp_path.iterdir())) == (75, "", [])
    *reports, last = err.splitlines()
    assert [line.partition(" (")[0] for line in reports] == [
        "waiting for 1 s: process 1 of 2 missing",
        "waiting for 2 s: process 1 of 2 missing",
    ]
    assert last.startswith("stopped: gave up after ")


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_during_the_first_evaluation_and_compilation_saves_one_step_everywhere(
    processes, tmp_path
):
    config = SMALL | {"evaluations.knn.every_epochs": 2.0, "runtime.save_every_steps": 100}
    config |= FEWER | {"probes.count": 0}
    arguments = [QUICKSTART, f"--workdir={tmp_path}", *overrides(config)]
    with Job(*arguments, processes=processes, devices=1) as job:
        first, last = job.processes[0], job.processes[-1]
        first.wait_for("workdir")  # the evaluation before the first step begins
        last.send(signal.SIGTERM)
        finished = job.finish()
    assert [each.code for each in finished] == [75] * processes
    assert "SIGTERM: saving and stopping after this step" in finished[-1].err
    out = finished[0].out
    assert out.index("workdir") < out.index("(before training)") < out.index("first step")
    saved = int(re.search(rf"SIGTERM: saved step (\d+) of {STEPS}", out)[1])
    assert 1 <= saved <= 2 and checkpoint_steps(tmp_path) == [saved]
