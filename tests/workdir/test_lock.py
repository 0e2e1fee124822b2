"""One training at a time writes into a workdir."""

import dataclasses
import fcntl
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dino_jax.workdir import lock as module
from dino_jax.workdir.lock import take_lock

ROOT = Path(__file__).parents[2]
TAKE = """
import os, sys
from dino_jax.workdir.lock import take_lock
take_lock(sys.argv[1], print)
os._exit(9)
"""


@pytest.fixture
def quick(monkeypatch):
    """Short times: a holder is silent after half a second."""
    for name, seconds in (("SILENT", 0.5), ("SETTLE", 1.0), ("LOOK", 0.02)):
        monkeypatch.setattr(module, f"{name}_SECONDS", seconds)


def change(folder, **fields):
    """Makes the lock that of somebody else."""
    path = folder / "lock.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_second_training_is_told_who_trains_and_changes_nothing(tmp_path):
    held = take_lock(tmp_path / "a/run", print)
    before = (tmp_path / "a/run/lock.json").read_text()
    with pytest.raises(
        ValueError, match=r"is in use by process \d+ on .*, since 2.* UTC"
    ) as caught:
        take_lock(tmp_path / "a/run", print)
    assert "then run the same command again; or use another --workdir" in str(caught.value)
    assert (tmp_path / "a/run/lock.json").read_text() == before
    assert held.beat() == ""
    held.release()
    assert list(tmp_path.iterdir()) == []  # nothing but the lock has made the folders


def test_a_released_workdir_can_be_taken_and_keeps_its_files(tmp_path):
    take_lock(tmp_path / "run", print).release()
    held = take_lock(tmp_path / "run", print)
    (tmp_path / "run/metrics.jsonl").touch()
    held.release()
    assert held.beat() == ""  # too late, by another thread
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.jsonl"]


def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path):
    killed = [sys.executable, "-c", TAKE, str(tmp_path)]
    assert subprocess.run(killed, cwd=ROOT, check=False).returncode == 9
    said = []
    take_lock(tmp_path, said.append).release()
    (line,) = said
    assert line.startswith(f"workdir {tmp_path} is free: process ")


def test_another_process_with_the_number_of_a_dead_one_is_not_the_holder(tmp_path):
    take_lock(tmp_path, print)
    change(tmp_path, born=1)
    take_lock(tmp_path, print).release()


@pytest.mark.parametrize("machine", ["another boot pid:[1]", ""])
def test_a_silent_holder_on_another_machine_is_taken_for_dead_after_a_while(
    machine, tmp_path, quick
):
    lost = take_lock(tmp_path, print)
    change(tmp_path, machine=machine, host="far", pid=1)
    said, begun = [], time.monotonic()
    take_lock(tmp_path, said.append)
    assert time.monotonic() - begun >= 0.5
    waiting, free = said
    assert "belongs to process 1 on far, since" in waiting and "up to 0 s" in waiting
    assert "is free: process 1 on far" in free
    assert lost.beat().startswith("process ")  # it was only suspended, and must end


def test_a_sign_of_life_from_another_machine_is_believed(tmp_path):
    held = take_lock(tmp_path, print)
    held._holder = dataclasses.replace(held._holder, machine="another", host="far")
    held.beat()
    with pytest.raises(ValueError, match=r"in use by process \d+ on far"):
        take_lock(tmp_path, lambda waiting: held.beat())


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"pid": "x"}', "\xff"])
def test_a_damaged_lock_blocks_for_a_while_only(text, tmp_path, quick):
    (tmp_path / "lock.json").write_text(text, encoding="latin-1")
    said = []
    take_lock(tmp_path, said.append).release()
    assert "a command whose lock cannot be read" in said[0]


@pytest.mark.parametrize("text", ['{"new": 1}', '{"pid": "x", "token": "", "lease": {}}'])
def test_the_lock_of_a_newer_version_is_respected(text, tmp_path):
    (tmp_path / "lock.json").write_text(text)
    with pytest.raises(ValueError, match=r"held by a newer version of .*remove lock\.json"):
        take_lock(tmp_path, print)
    assert (tmp_path / "lock.json").read_text() == text


def test_a_lock_that_a_newer_version_has_taken_over_is_lost(tmp_path):
    held = take_lock(tmp_path, print)
    change(tmp_path, lease=60)
    assert held.beat() == "a command of a newer version of dino_jax"
    held.release()
    assert (tmp_path / "lock.json").exists()


@pytest.mark.parametrize("text", ["", "{", '{"pid": "x"}'])
def test_a_lock_that_is_damaged_while_a_training_holds_it_is_written_again(text, tmp_path):
    held = take_lock(tmp_path, print)
    (tmp_path / "lock.json").write_text(text)
    assert held.beat() == ""
    assert json.loads((tmp_path / "lock.json").read_text())["token"] == held._holder.token
    (tmp_path / "lock.json").write_text(text)
    held.release()
    assert list(tmp_path.iterdir()) == []


def test_a_process_whose_start_is_unknown_may_live_and_one_that_is_gone_does_not(
    tmp_path, monkeypatch
):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # a zombie from now on
    born = module._born(os.getpid())
    assert born and module._born(ended.pid) is None
    mine = module._this_process()
    zombie = dataclasses.replace(mine, pid=ended.pid, born=0)
    assert module._is_alive(zombie) is False
    ended.wait()
    assert module._born(ended.pid) is None and module._is_alive(zombie) is False
    assert module._is_alive(mine) is True
    assert module._is_alive(dataclasses.replace(mine, born=0)) is None
    monkeypatch.setattr(module, "_born", lambda pid: 0)  # /proc does not say
    assert module._is_alive(mine) is None


def test_a_launcher_that_has_locked_the_folder_does_not_block_the_training(
    tmp_path, quick, monkeypatch
):
    """`flock WORKDIR dino-jax train --workdir=WORKDIR`: the parent holds it until we end."""
    monkeypatch.setattr(module, "ALONE_SECONDS", 0.1)
    monkeypatch.setattr(module, "SETTLE_SECONDS", 0.1)
    launcher = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(launcher, fcntl.LOCK_EX)
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(take_lock, tmp_path, print)
        try:
            held = taken.result(timeout=30)
        finally:
            os.close(launcher)  # so that a thread that waits for it ends
    assert held.beat() == ""


@pytest.mark.parametrize("stale", [False, True])
def test_of_trainings_that_start_together_one_wins(stale, tmp_path):
    if stale:
        take_lock(tmp_path, print)
        change(tmp_path, born=1)

    def start(_):
        try:
            return take_lock(tmp_path, str)
        except ValueError:
            return None

    with ThreadPoolExecutor(8) as pool:
        (winner,) = [held for held in pool.map(start, range(8)) if held is not None]
    assert winner.beat() == ""


@pytest.mark.parametrize("stale", [False, True])
def test_of_trainings_that_start_together_on_a_bucket_the_last_to_write_wins(
    stale, cloud, quick, monkeypatch
):
    if stale:
        take_lock("gs://bucket/run", print)
        monkeypatch.setattr(module, "_born", lambda pid: 1)
    with ThreadPoolExecutor(4) as pool:
        taken = [pool.submit(take_lock, "gs://bucket/run", str) for _ in range(4)]
    (winner,) = [each.result() for each in taken if each.exception() is None]
    assert winner.beat() == ""
    winner.release()
    assert not cloud.exists("gs://bucket/run/lock.json")


def test_without_locks_of_the_file_system_the_last_to_write_wins(tmp_path, quick, monkeypatch):
    def refuse(*_):
        raise OSError("not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    with ThreadPoolExecutor(4) as pool:
        taken = [pool.submit(take_lock, tmp_path, str) for _ in range(4)]
    (winner,) = [each.result() for each in taken if each.exception() is None]
    assert winner.beat() == ""


def test_a_file_is_no_workdir(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot be used"):
        take_lock(tmp_path / "file/run", print)
