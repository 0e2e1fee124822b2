"""The report, and `dino-jax doctor` in one and in two processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from dino_jax.doctor.result import Result, attempt, describe_others, describe_result, exit_code

ROOT = Path(__file__).parents[2]
GOOD, DOUBT, BAD = (
    Result("port", "OK", "8476 is free"),
    Result("clocks", "WARN", "3 s apart", "set the clock"),
    Result("data", "FAIL", "no images\nnone at all", "give some"),
)


def start(*arguments: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "dino_jax.doctor", *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return str(probe.getsockname()[1])


def lines_of(out: str) -> dict[str, str]:
    """Check to level."""
    lines = [line.split() for line in out.splitlines()]
    return {words[1]: words[0] for words in lines if words and words[0] in ("OK", "WARN", "FAIL")}


def test_a_result_is_a_line_and_its_fix_another():
    assert describe_result(GOOD) == "OK    port        8476 is free"
    assert describe_result(BAD).splitlines() == [
        "FAIL  data        no images",
        " " * 18 + "none at all",
        " " * 18 + "fix: give some",
    ]


def test_other_processes_are_named_only_with_what_is_wrong():
    assert describe_others([[GOOD, BAD], [GOOD], [GOOD]]) == [
        "OK    all of this on the other 2 processes, too"
    ]
    lines = describe_others([[GOOD], [GOOD], [GOOD, DOUBT]])
    assert lines == [describe_result(DOUBT, "process 2: ")]
    assert "process 2: 3 s apart" in lines[0]


def test_only_a_failure_anywhere_sets_the_exit_code():
    assert exit_code([[GOOD, DOUBT], [DOUBT]]) == 0
    assert exit_code([[GOOD], [BAD]]) == 1


def test_a_check_that_raises_is_a_failure():
    def check() -> Result:
        raise KeyError("bucket")

    result = attempt("workdir", check)
    assert (result.level, result.text) == ("FAIL", "KeyError: 'bucket'")


def test_a_whole_report(tmp_path):
    process = start(
        "--config=configs/quickstart.py",
        f"--workdir={tmp_path}",
        *("--config.runtime.workers=0", "--config.batch_size=8", "--seconds=0", "--need=1e9"),
        JAX_COORDINATOR_PORT=free_port(),
    )
    out, err = process.communicate()
    levels = lines_of(out)
    assert process.returncode == 1, err
    assert levels.pop("packages") in ("OK", "WARN")  # WARN: in a checkout that is not installed
    assert levels.pop("lock") in ("OK", "FAIL")  # FAIL: another process compiles for TPUs
    assert levels == {
        **dict.fromkeys(("python", "jax", "port", "devices", "workdir", "data", "config"), "OK"),
        "input": "FAIL",
    }


def test_a_missing_platform_ends_the_report_with_exit_code_1():
    process = start("--platform=gpu", JAX_COORDINATOR_PORT=free_port())
    out, err = process.communicate()
    assert process.returncode == 1, err
    assert "FAIL  devices     1 x cpu, 1 of them here, 1 process(es): cpu, but expected gpu" in out


def test_wrong_options_end_with_exit_code_2():
    process = start("--workdirs=x")
    _, err = process.communicate()
    assert process.returncode == 2 and "workdirs" in err


def test_the_first_of_two_processes_tells_what_the_other_found(tmp_path):
    (tmp_path / "file").touch()
    environment = {
        # jax reads the number and the addresses of the processes from these.
        **{"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"},
        **{"SLURM_LOCALID": "0", "JAX_COORDINATOR_PORT": free_port()},
    }
    first, second = (
        start("--distributed", f"--workdir={tmp_path / name}", SLURM_PROCID=process, **environment)
        for process, name in (("0", "run"), ("1", "file"))
    )
    (out, err), (other_out, _) = first.communicate(), second.communicate()
    assert (first.returncode, second.returncode) == (1, 1), err
    levels = lines_of(out)
    assert levels["processes"] == levels["devices"] == levels["clocks"] == "OK"
    assert "2 x cpu, 1 of them here, 2 process(es)" in out
    assert "FAIL  workdir     process 1: " in out and "it is a file" in out
    assert not lines_of(other_out)
