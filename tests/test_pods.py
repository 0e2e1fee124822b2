"""The real command as the processes of a pod: missing, different, refused, or told to stop."""

import contextlib
import json
import os
import re
import signal

import pytest

from dino_jax.workdir.lock import take_lock
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


def test_processes_that_differ_all_end_with_2_before_anything_is_built(tmp_path):
    """In an option that may change between starts, and in the number of images below ~/."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.png").touch()
    both = [QUICKSTART, f"--workdir={tmp_path}/run", *overrides(SMALL), "--distributed"]
    both += ["--config.data.kind=folder", "--config.data.path=~/"]
    seconds = (["--config.runtime.save_every_steps=2"], [])
    for mine, said in zip(
        seconds, ("config.runtime.save_every_steps: ", "images of config.data: "), strict=True
    ):
        slurm = slurm_of(2)
        homes = (tmp_path / "a", tmp_path)  # one image, and the same one with an empty file more
        with contextlib.ExitStack() as stack:
            processes = [
                stack.enter_context(
                    Train(
                        *both,
                        *(mine if number else []),
                        environment=slurm | {"SLURM_PROCID": str(number), "HOME": str(home)},
                    )
                )
                for number, home in enumerate(homes)
            ]
            (tmp_path / "2.png").touch()
            for process in processes:
                code, out, err = process.finish()
                assert (code, out) == (2, "")
                assert "error: the 2 processes of this run differ:\n" in err and said in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_wrong_command_line_of_one_process_ends_all_with_2(wrong, tmp_path):
    both, mine = [QUICKSTART, f"--workdir={tmp_path}/run", "--distributed"], "--config.sead=1"
    slurm = slurm_of(2)
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                Train(
                    *both,
                    *([mine] if number == wrong else []),
                    environment=slurm | {"SLURM_PROCID": str(number)},
                )
            )
            for number in range(2)
        ]
        ends = [process.finish() for process in processes]
    assert [(end.code, end.out) for end in ends] == [(2, "")] * 2
    assert ends[wrong].err.startswith("error: ") and "seed" in ends[wrong].err
    (reason,) = ends[wrong].err.removeprefix("error: ").splitlines()
    assert ends[1 - wrong].err.startswith(f"error: process {wrong} on ")
    assert ends[1 - wrong].err.endswith(f" cannot start: {reason}\n")
    assert not (tmp_path / "run").exists()


def test_a_second_training_on_a_workdir_is_refused_on_all_its_processes(tmp_path):
    lock = take_lock(tmp_path, print)
    before = (tmp_path / "lock.json").read_text()
    with Job(QUICKSTART, f"--workdir={tmp_path}", *overrides(SMALL), processes=2, devices=1) as job:
        for code, out, err in job.finish():
            assert (code, out) == (2, "")
            assert f"error: workdir {tmp_path} is in use by process {os.getpid()} on " in err
    assert [path.name for path in tmp_path.iterdir()] == ["lock.json"]
    assert (tmp_path / "lock.json").read_text() == before
    lock.release()


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
    assert not (tmp_path / "lock.json").exists()
    assert json.loads((tmp_path / "newest_checkpoint.json").read_text()) == {"step": saved}
    assert json.loads((tmp_path / "data.json").read_text())["config.data"]["images"] == 1438
