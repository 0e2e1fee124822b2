"""`dino-jax train` as a user starts it: real processes, with a very small model."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from tests import quick_compiler

ROOT = Path(__file__).parent.parent
QUICKSTART = "--config=configs/quickstart.py"
STEPS = 8
FEWER = {"evaluations.knn.max_train_images": 200, "evaluations.knn.max_test_images": 100}
SMALL = {
    "batch_size": 16,
    "steps_per_epoch": 2,
    "epochs": STEPS / 2,
    "network.backbone.embed_dim": 24,
    "network.backbone.depth": 2,
    "network.backbone.drop_path_rate": 0.2,
    "network.heads.dino.out_dim": 256,
    "network.heads.dino.hidden_dim": 64,
    "network.heads.dino.bottleneck_dim": 16,
    # Else Adam turns rounding errors of zero gradients into whole steps.
    "optimizer.adamw.eps": 1e-3,
    "evaluations.knn.every_epochs": 0.0,
    "evaluations.proxies.every_epochs": 0.0,
    "runtime.log_every_steps": 1,
    "runtime.save_every_steps": 1,
}


def overrides(changes: dict[str, object]) -> list[str]:
    """{"optimizer.lr": 1.0} -> ["--config.optimizer.lr=1.0"]."""
    return [f"--config.{name}={value}" for name, value in changes.items()]


class Finished(NamedTuple):
    """What is left of a process."""

    code: int
    out: str
    err: str


class Train:
    """A running command, `train` unless said, in a process group of its own; a context manager."""

    def __init__(
        self,
        *arguments: str,
        devices: int = 1,
        environment: dict[str, str] | None = None,
        module: str = "dino_jax.train",
    ):
        self._err = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._lines: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=os.environ
            | {
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": quick_compiler.flags(devices),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            }
            | (environment or {}),
            stdout=subprocess.PIPE,
            stderr=self._err,
            text=True,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def workers(self) -> list[int]:
        """Processes of the input that this process has started."""
        return [pid for pid in _children(self.pid) if "spawn_main" in _command(pid)]

    def wait_for(self, text: str) -> None:
        """Reads until a line starts with `text`."""
        for line in self._process.stdout:
            self._lines.append(line)
            if line.startswith(text):
                return
        raise AssertionError(f"{text!r} was never printed: {self.finish()}")

    def send(self, number: signal.Signals) -> None:
        """To this process alone, as a scheduler does."""
        self._process.send_signal(number)

    def send_to_all(self, number: signal.Signals) -> None:
        """To this process and its workers, as a terminal does."""
        os.killpg(self._process.pid, number)

    def finish(self) -> Finished:
        code = self._process.wait()
        self._lines += self._process.stdout.readlines()
        self._err.seek(0)
        # A slow disk makes Orbax say so when every step is saved.
        err = [line for line in self._err if "Waiting for previous save" not in line]
        return Finished(code, "".join(self._lines), "".join(err))

    def leftovers(self) -> list[str]:
        """Processes of the group that still live some seconds after the end of the first one."""
        self._process.wait()
        for _ in range(100):
            living = _living(self._process.pid)
            if not living:
                break
            time.sleep(0.1)
        return living

    def __enter__(self) -> "Train":
        return self

    def __exit__(self, *_: object) -> None:
        if _living(self._process.pid):
            self.send_to_all(signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()
        self._err.close()


def run(*arguments: str, **options) -> Finished:
    """Runs a command to its end."""
    with Train(*arguments, **options) as process:
        return process.finish()


def slurm_of(processes: int) -> dict[str, str]:
    """What jax reads about a job; SLURM_PROCID is missing, which each process has of its own."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    slurm = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost"}
    slurm |= {"SLURM_NTASKS": str(processes), "SLURM_LOCALID": "0"}
    return slurm | {"JAX_COORDINATOR_PORT": str(port)}


class Job:
    """A command as one or more processes that train together; a context manager.

    Several are started as Slurm does it; `last_alone` are arguments of the last one only.

    Attributes:
      processes: in the order of their numbers.
    """

    def __init__(
        self,
        *arguments: str,
        processes: int,
        devices: int,
        last_alone: Sequence[str] = (),
        **options,
    ):
        distributed, environment = [], {}
        if processes > 1:
            distributed, environment = ["--distributed"], slurm_of(processes)
        self._stack = contextlib.ExitStack()
        self.processes = [
            self._stack.enter_context(
                Train(
                    *arguments,
                    *distributed,
                    *(last_alone if number == processes - 1 else ()),
                    devices=devices,
                    environment=environment | {"SLURM_PROCID": str(number)},
                    **options,
                )
            )
            for number in range(processes)
        ]

    def finish(self) -> list[Finished]:
        return [process.finish() for process in self.processes]

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def run_processes(*arguments: str, processes: int, devices: int, **options) -> list[Finished]:
    """Runs a command as so many processes, each with so many devices, to its end."""
    with Job(*arguments, processes=processes, devices=devices, **options) as job:
        return job.finish()


def close_state(workdir: Path, expected: Path) -> None:
    """The newest checkpoints are equal up to float32 rounding."""
    ours, theirs = read_state(workdir), read_state(expected)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=2e-5, err_msg=name)


def read_metrics(workdir: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl, without times and speed, which are never the same."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if not k.startswith(("images_per_second", "time/"))}
        for line in lines
    ]


def tolerance(name: str) -> dict[str, float]:
    """By how much rounding may change a metric on another mesh.

    Of the 100 test images of the k-NN three may change sides. Differences of nearly equal moments
    and square roots of the smallest eigenvalues magnify the rounding (4.6e-5 was seen).
    """
    if name.startswith("knn"):
        return dict(rtol=0, atol=3.0)
    magnified = name in ("health/effective_rank", "health/feature_std")
    return dict(rtol=1e-3 if magnified else 1e-5, atol=1e-6)


def checkpoint_steps(workdir: Path) -> list[int]:
    """Labels of the finished checkpoints."""
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def read_state(workdir: Path, step: int | None = None) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint (None: the newest) by path, such as "teacher/params/…"."""
    label = checkpoint_steps(workdir)[-1] if step is None else step
    path = workdir / "checkpoints" / str(label) / "state"
    tree = ocp.PyTreeCheckpointHandler().metadata(path).tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        state = reader.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(k, simple=True, separator="/"): leaf for k, leaf in leaves}


def _living(group: int) -> list[str]:
    """Command lines of the processes of a group that are no zombies."""
    living = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, member_of = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(member_of) == group and state not in "ZX":
                living.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it has just ended
            continue
    return living


def _children(parent: int) -> list[int]:
    """The processes that a process has started and that still live."""
    listed = Path(f"/proc/{parent}/task").glob("*/children")
    return [int(pid) for path in listed for pid in path.read_text().split()]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:  # it has just ended
        return ""
