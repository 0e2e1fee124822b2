"""The VM's side of the launch scripts, with real processes and a training that does nothing."""

import os
import signal
import time

import pytest

from tests.launch.fake_cloud import Cloud


@pytest.fixture
def vm(cloud):
    """A machine that `gcloud … ssh` reaches; its training waits for a file named exit_code."""
    (cloud.folder / "vm").mkdir()
    yield cloud
    (cloud.folder / "exit_code").write_text("0")  # ends what a failed test has left running


def wait_for_state(vm: Cloud, state: str) -> None:
    remote = str(vm.folder / "vm/dino_jax/code/launch/remote.sh")
    for _ in range(500):
        answer = vm.bash(remote, "state").stdout
        if answer.endswith(f" {state}\n"):
            return
        time.sleep(0.02)
    raise AssertionError(f"{answer!r} instead of {state!r}")


def wait_for_python(vm: Cloud) -> None:
    for _ in range(500):
        if (vm.folder / "python").exists():
            return
        time.sleep(0.02)
    raise AssertionError("the training was never started")


def test_setup_train_and_status_work_on_a_vm_and_options_arrive_unchanged(vm):
    note = """--config.note=it's a "b"  $HOME `c` \\ * ;"""
    vm.set(f"FLAG={note} from the file")
    assert "not set up" in vm.launch("tpu_vm", "train").stderr
    assert vm.launch("tpu_vm", "setup").returncode == 0
    venv, install = [call for call in vm.calls() if call[0] == "uv"]
    assert venv[1:] == ["venv", "--quiet", "--clear", "--python", "3.12", venv[-1]]
    assert any(word.endswith("/dino_jax/code[tpu,gcs]") for word in install)
    assert "never started" in vm.launch("tpu_vm", "status").stdout

    started = vm.launch("tpu_vm", "train", "--", note, "--config.seed=1")
    assert started.returncode == 0 and ": started, log in " in started.stdout
    wait_for_state(vm, "running")
    assert "is already running" in vm.launch("tpu_vm", "train").stdout
    assert vm.launch("tpu_vm", "setup").returncode != 0  # would replace the code under the run
    wait_for_python(vm)
    folder, port, *arguments = (vm.folder / "python").read_text().split("\0")[:-1]
    assert (folder, port) == (str(vm.folder / "vm/dino_jax/code"), "8476")
    assert arguments == [
        *("-m", "dino_jax.train", "--distributed"),
        *("--config=configs/small.py", "--workdir=gs://bucket/run"),
        *(f"{note} from the file", note, "--config.seed=1"),
    ]
    assert "step  5/10  loss 6.2" in vm.launch("tpu_vm", "status").stdout


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        (0, "exit code 0: done"),
        (1, "exit code 1: given up"),
        (2, "exit code 2: wrong usage"),
        (75, "exit code 75: preempted, or another VM was lost; train continues"),
        (130, "exit code 130: stopped and saved; train continues"),
        (137, "exit code 137: died; train continues from the last checkpoint"),
    ],
)
def test_status_tells_the_exit_code_and_shows_the_log(vm, code, meaning):
    assert vm.launch("tpu_vm", "setup").returncode == 0
    assert vm.launch("tpu_vm", "train").returncode == 0
    (vm.folder / "exit_code").write_text(str(code))
    wait_for_state(vm, f"exit {code}")
    shown = vm.launch("tpu_vm", "status").stdout
    assert meaning in shown
    assert "    step  5/10  loss 6.2" in shown and "    | == " in shown


def signal_run(vm: Cloud, number: signal.Signals) -> None:
    """Sends a signal to the process group of the run, once it has one of its own."""
    pid = int((vm.folder / "vm/dino_jax/run/pid").read_text())
    assert pid > 1
    while os.getpgid(pid) != pid:
        time.sleep(0.02)
    os.killpg(pid, number)


def test_a_sigterm_for_all_processes_leaves_exit_code_75_and_train_starts_again(vm):
    assert vm.launch("tpu_vm", "setup").returncode == 0
    for _ in range(2):
        (vm.folder / "python").unlink(missing_ok=True)
        assert vm.launch("tpu_vm", "train").returncode == 0
        wait_for_python(vm)
        signal_run(vm, signal.SIGTERM)
        wait_for_state(vm, "exit 75")


def test_a_run_that_was_killed_is_lost(vm):
    assert vm.launch("tpu_vm", "setup").returncode == 0
    assert vm.launch("tpu_vm", "train").returncode == 0
    wait_for_python(vm)
    signal_run(vm, signal.SIGKILL)
    wait_for_state(vm, "lost")
    assert "died without an exit code" in vm.launch("tpu_vm", "status").stdout


def test_a_wrong_verb_on_the_vm_is_an_error(cloud):
    done = cloud.bash(str(cloud.checkout / "launch/remote.sh"), "begin")
    assert done.returncode == 2 and "unknown verb 'begin'" in done.stderr
