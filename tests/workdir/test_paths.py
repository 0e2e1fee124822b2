"""Paths, and files that appear whole or not at all."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from etils import epath

from dino_jax.workdir.paths import (
    absolute_path,
    is_remote,
    user_cache,
    write_atomically,
    written_whole,
)


def test_addresses_stay_and_local_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert str(absolute_path("gs://bucket/run/")) == "gs://bucket/run"
    assert str(absolute_path("a/b/")) == str(tmp_path / "a/b")
    assert absolute_path("~/run") == epath.Path(tmp_path) / "home/run"
    assert [is_remote(x) for x in ("gs://a/b", epath.Path("gs://a"), "a/b", Path("/a"))] == [
        True,
        True,
        False,
        False,
    ]


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = absolute_path(tmp_path / "file")
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")  # fails after the temporary file was opened
    assert path.read_text() == "old"
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'.*/none/file'"):
        write_atomically(tmp_path / "none/file", "text")


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a.txt"
    with pytest.raises(RuntimeError, match="half"), written_whole(str(target)) as path:
        Path(path).write_text("half")
        raise RuntimeError("half")
    assert list(tmp_path.iterdir()) == []
    with written_whole(target) as path:
        Path(path).write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [target]


def test_what_a_killed_process_left_is_overwritten(tmp_path):
    script = (
        "import os, sys; from dino_jax.workdir.paths import written_whole\n"
        "with written_whole(sys.argv[1]) as path:\n"
        "    open(path, 'w').write('half'); os._exit(9)\n"
    )
    target = tmp_path / "a.txt"
    assert subprocess.run([sys.executable, "-c", script, target], check=False).returncode == 9
    assert len(list(tmp_path.iterdir())) == 1
    with written_whole(target) as path:
        Path(path).write_text("whole")
    assert list(tmp_path.iterdir()) == [target]


def test_input_workers_can_import_the_module_without_jax():
    script = "import sys, dino_jax.workdir.paths; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_users_cache_is_a_private_folder_or_none(tmp_path, monkeypatch):
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir()
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert user_cache() == home / ".cache/dino_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert user_cache() == home / ".cache/dino_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert user_cache() == tmp_path / "xdg/dino_jax"
    (tmp_path / "xdg/dino_jax").rmdir()
    (tmp_path / "disk").mkdir()
    (tmp_path / "xdg/dino_jax").symlink_to(tmp_path / "disk")  # the user's own link
    assert user_cache() == tmp_path / "xdg/dino_jax"
    (tmp_path / "disk").chmod(0o777)  # others could put programs there
    other = temporary / f"dino_jax-{os.getuid()}"
    assert user_cache() == other and other.stat().st_mode & 0o777 == 0o700
    other.rmdir()
    other.symlink_to(home)  # laid by somebody else
    assert user_cache() is None
    other.unlink()
    other.write_text("a file")
    assert user_cache() is None
