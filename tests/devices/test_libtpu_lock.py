"""Who holds the chips of a machine, on invented lock files."""

import os
import subprocess
import sys

from dino_jax.devices.libtpu_lock import Holder, find_holders, find_lock, judge_lock


def test_lock_file_that_is_not_there_or_left_over_is_fine(tmp_path):
    path = tmp_path / "lock"
    assert judge_lock(path, [], writable=False).free
    path.touch()
    left = judge_lock(path, [], writable=True)
    assert left.free and "harmless" in left.text


def test_lock_file_of_a_running_process_names_it(tmp_path):
    path = tmp_path / "lock"
    path.touch()
    result = judge_lock(path, [Holder(4711, "dino-jax train")], writable=True)
    assert not result.free
    assert "4711 (dino-jax train)" in result.text
    assert "kill -TERM 4711" in result.fix


def test_lock_file_of_another_user_names_the_user(tmp_path):
    path = tmp_path / "lock"
    path.touch()
    result = judge_lock(path, [], writable=False)
    assert not result.free and f"belongs to user {os.getuid()}" in result.text
    assert f"sudo rm {path}" in result.fix


def test_holders_are_the_processes_that_have_the_file_open(tmp_path):
    path = tmp_path / "lock"
    path.touch()
    assert find_holders(path) == []
    code = "import sys; file = open(sys.argv[1]); print('open', flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"open\n"
    holders = find_holders(path)
    process.communicate(b"\n")
    assert [holder.pid for holder in holders] == [process.pid]
    assert str(path) in holders[0].command


def test_that_this_process_has_the_file_open_does_not_count(tmp_path):
    path = tmp_path / "lock"
    with path.open("w"):
        assert [holder.pid for holder in find_holders(path)] == [os.getpid()]
        assert find_lock(path).free
    assert find_lock(tmp_path / "none").free
