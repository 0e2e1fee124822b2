"""Faults of the storage below a workdir: one line, the right exit code, nothing else is caught."""

import errno
import logging
import resource
import sys
import time
from contextlib import contextmanager
from types import SimpleNamespace

import jax.numpy as jnp
import pytest
from etils import epath

from dino_jax.commands.command_line import UsageError
from dino_jax.processes.agreement import Alone
from dino_jax.run import storage
from dino_jax.run.storage import StorageFaultError, storage_faults
from dino_jax.workdir import checkpointing
from dino_jax.workdir.newest import NewestCheckpoint


@pytest.fixture(autouse=True)
def hook(monkeypatch):
    monkeypatch.setattr("sys.unraisablehook", lambda _: None)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "checkpoints/4").mkdir(parents=True)
    (tmp_path / "config.json").touch()
    return epath.Path(tmp_path)


def fail(error, folder):
    with storage_faults(folder, Alone()):
        raise error


def of_tensorstore(number):
    return ValueError(f"RESOURCE_EXHAUSTED: Failed to write 67 bytes [os_error_code='{number}']")


@pytest.mark.parametrize("form", [lambda number: OSError(number, "x"), of_tensorstore])
@pytest.mark.parametrize(
    ("number", "what", "code"),
    [
        (errno.ENOSPC, "no space is left. To go on, make room and run", 1),
        (errno.EDQUOT, "quota", 1),
        (errno.EFBIG, r"raise the limit \(ulimit -f\)", 1),
        (errno.EROFS, "read-only", 1),
        (errno.EIO, "the disk has an error", 75),
        (errno.ESTALE, "network file system", 75),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_a_fitting_code(form, number, what, code, folder):
    with pytest.raises(StorageFaultError, match=what) as caught:
        fail(form(number), folder)
    assert caught.value.exit_code == code
    assert str(caught.value).endswith("it continues from step 4") and "\n" not in str(caught.value)


def test_the_error_behind_other_errors_is_found(folder):
    with (
        pytest.raises(StorageFaultError, match="no space is left"),
        storage_faults(folder, Alone()),
    ):
        try:
            raise of_tensorstore(errno.ENOSPC)
        finally:
            raise RuntimeError("while closing")


def test_a_fault_of_one_process_ends_all(folder, monkeypatch):
    ended, together = [], Alone()
    monkeypatch.setattr(together, "end", lambda code, why: ended.append((code, why)))
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(StorageFaultError), storage_faults(folder, together):
        raise OSError(errno.ENOSPC, "x")
    ((code, why),) = ended
    assert code == 1 and "no space is left" in why


def test_files_of_the_workdir_that_are_missing_are_a_fault_and_others_are_not(folder):
    ours = FileNotFoundError(errno.ENOENT, "No such file", str(folder / "checkpoints/6"))
    with pytest.raises(StorageFaultError, match="files of it have been deleted"):
        fail(ours, folder)
    for other in (
        FileNotFoundError(errno.ENOENT, "No such file", "/photos/a.jpg"),
        ValueError("a bug"),
        UsageError("of the user"),
    ):
        with pytest.raises(type(other)) as caught:
            fail(other, folder)
        assert caught.value is other


def test_a_workdir_that_has_vanished_is_the_cause_of_any_error(folder):
    (folder / "config.json").unlink()  # Orbax may have made its folders again
    with pytest.raises(StorageFaultError, match="has vanished") as caught:
        fail(AssertionError("of Orbax"), folder)
    assert caught.value.exit_code == 1


def test_a_store_that_does_not_answer_is_tried_again(monkeypatch):
    monkeypatch.setattr(storage, "checkpoint_steps", lambda folder: [])
    with pytest.raises(StorageFaultError, match=r"does not answer.*begins again") as caught:
        fail(ConnectionError("503"), epath.Path("gs://bucket/run"))
    assert caught.value.exit_code == 75


@pytest.mark.parametrize("package", ["gcsfs.retry", "aiohttp.client", "google.auth.exceptions"])
def test_a_store_has_errors_of_its_own_and_may_not_even_list_its_checkpoints(package, monkeypatch):
    error = type("HttpError", (Exception,), {"__module__": package})("503")

    def refuse(folder):
        raise error

    monkeypatch.setattr(storage, "checkpoint_steps", refuse)
    with pytest.raises(StorageFaultError, match=r"does not answer.*its newest check") as caught:
        fail(error, epath.Path("gs://bucket/run"))
    assert caught.value.exit_code == 75
    bug = ValueError("a bug")
    with pytest.raises(ValueError, match="a bug"):
        fail(bug, epath.Path("gs://bucket/run"))


@contextmanager
def largest_file(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.filterwarnings("ignore")  # coroutines that Orbax leaves behind
def test_what_orbax_says_about_a_full_disk_is_understood(tmp_path):
    """A limit to the size of files fails as a full disk does, deep in its threads."""
    (tmp_path / "config.json").touch()
    manager = checkpointing.open_checkpoints(tmp_path, save_every_steps=1, keep=1)
    checkpointing.save(manager, 1, {"x": jnp.ones(4)})
    manager.wait_until_finished()
    newest = NewestCheckpoint(tmp_path, manager)
    newest.note()
    with (
        pytest.raises(StorageFaultError, match=r"may not grow.*continues from step 1"),
        storage_faults(epath.Path(tmp_path), Alone()),
        largest_file(1 << 16),
        checkpointing.closing(manager),
    ):
        checkpointing.save(manager, 2, {"x": jnp.arange(1 << 20)})
        while manager.is_saving_in_progress():
            time.sleep(0.01)
        newest.note()  # the manager lists step 2
    assert (tmp_path / "newest_checkpoint.json").read_text() == '{"step": 1}\n'


@pytest.mark.parametrize(
    ("path", "name", "kept"),
    [
        ("/x/orbax/checkpoint/future.py", "absl", False),
        ("/x/asyncio/base_events.py", "asyncio", False),
        ("/x/dino_jax/run/journal.py", "absl", True),
    ],
)
def test_errors_that_are_raised_as_well_are_not_logged(path, name, kept):
    told = (ValueError, ValueError("x"), None)
    record = logging.LogRecord(name, logging.ERROR, path, 1, "failed", (), told)
    assert storage._is_not_raised(record) == kept
    record.exc_info = None
    assert storage._is_not_raised(record)


def test_calls_to_a_loop_that_has_given_up_are_not_shown_and_other_errors_are(monkeypatch):
    shown = []
    monkeypatch.setattr("sys.unraisablehook", shown.append)
    monkeypatch.setattr("sys.warnoptions", [])
    storage.keep_quiet_about_raised_errors()
    for error in (RuntimeError("Event loop is closed"), ValueError("a bug")):
        sys.unraisablehook(SimpleNamespace(exc_value=error))
    assert [str(one.exc_value) for one in shown] == ["a bug"]
