"""The lock of a folder is free again however its process ends, and a process that lost it ends."""

import errno
import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from dino_jax.commands.one_writer import one_writer
from dino_jax.workdir.lock import Lock
from dino_jax.workdir.paths import write_atomically

ROOT = Path(__file__).parents[2]
HOLD = textwrap.dedent("""
    import signal, sys, time
    from dino_jax.commands import one_writer as module
    from dino_jax.processes.ending import exit_now
    signal.signal(signal.SIGTERM, lambda *_: exit_now(75, "ended"))
    module.BEAT_SECONDS = 0.1
    with module.one_writer(sys.argv[1]):
        print("held", flush=True)
        time.sleep(50)
""")


def test_the_lock_is_released_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), one_writer(tmp_path / "run"):
        assert (tmp_path / "run/lock.json").exists()
        raise RuntimeError
    assert not (tmp_path / "run").exists()


def test_a_lock_that_cannot_be_removed_is_one_line(tmp_path, monkeypatch, capsys):
    class HttpError(Exception):
        """As that of a store, which is no OSError."""

    for error in (OSError(errno.ESTALE, "Stale file handle"), HttpError("503\nagain")):

        def fail(lock, error=error):
            raise error

        monkeypatch.setattr(Lock, "release", fail)
        with one_writer(tmp_path):
            pass
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"lock.json stays in {tmp_path} (")
        (tmp_path / "lock.json").unlink()


@pytest.mark.parametrize("how", ["signal", "lost"])
def test_a_process_that_ends_at_once_releases_its_own_lock_only(how, tmp_path):
    path = tmp_path / "lock.json"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "held\n"
        if how == "signal":
            process.send_signal(signal.SIGTERM)
            assert process.wait() == 75 and process.stderr.read() == "ended"
            assert not path.exists()
            return
        other = {"token": "x", "host": "far", "pid": 7, "since": "today"}
        while process.poll() is None:  # a beat may come between its look and its write
            write_atomically(path, json.dumps(other))
            try:
                process.wait(0.3)
            except subprocess.TimeoutExpired:
                continue
        said = f"\nstopped: {tmp_path} was taken over by process 7 on far, since today UTC"
        assert process.returncode == 2 and process.stderr.read().startswith(said)
        assert json.loads(path.read_text()) == other
