"""Only regular files are read, and never more of them than the reader expects."""

import os
import socket

import pytest

from dino_jax.foreign import files


def _pipe(path):
    os.mkfifo(path)


def _socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))


SPECIAL = {
    "a pipe": _pipe,
    "a socket": _socket,
    "a folder": lambda path: path.mkdir(),
    "a character device": lambda path: path.symlink_to("/dev/zero"),
    "Too many levels of symbolic links": lambda path: path.symlink_to(path.name),
    "No such file": lambda path: path.symlink_to("nothing"),
}


@pytest.mark.parametrize("what", SPECIAL)
@pytest.mark.parametrize("read", [files.open_regular, files.require_regular])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(what, read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    SPECIAL[what](tmp_path / "x.jpg")
    with pytest.raises(OSError, match=what):
        read(tmp_path / "x.jpg")


def test_a_larger_file_is_not_read(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert files.read_bytes(path, 5) == b"12345"
    with pytest.raises(OSError, match="has 5 bytes, more than the 4"):
        files.read_bytes(path, 4)
    os.truncate(path, 1 << 40)  # sparse: one TiB
    with pytest.raises(OSError, match="more than the 1,073,741,824 that are read"):
        files.read_bytes(path, files.MAX_IMAGE_BYTES)


def test_text_that_is_no_path_and_addresses_of_local_files_are_errors_of_the_system(tmp_path):
    (tmp_path / "x").touch()
    for path, reason in [
        ("a\0b", "embedded null"),
        ("\ud800", "not a path"),
        (f"file://{tmp_path}/x", "without file://"),
        ("foo://a/b", "can't be opened"),
    ]:
        with pytest.raises(OSError, match=reason):
            files.read_bytes(path, 10)


def test_any_error_of_a_store_is_an_error_of_the_system(tmp_path, monkeypatch):
    class Store:
        protocol = "gs"

        def info(self, *_, **__):
            raise KeyError("token")

    monkeypatch.setattr(files, "file_system", lambda path: (Store(), path))
    with pytest.raises(OSError, match="gs://a/b can't be read: KeyError"):
        files.read_bytes("gs://a/b", 10)


def test_an_object_of_any_size_is_read_as_a_whole(cloud):
    for data in (b"", b"12345"):
        cloud.pipe("gs://bucket/x", data)
        assert files.read_bytes("gs://bucket/x", files.MAX_IMAGE_BYTES) == data
    with pytest.raises(OSError, match="has 5 bytes, more than the 4"):
        files.read_bytes("gs://bucket/x", 4)
    for name, reason in [("bucket", "is a folder"), ("bucket/y", "bucket/y")]:
        with pytest.raises(OSError, match=reason):
            files.read_bytes(f"gs://{name}", 4)


def test_no_memory_for_one_file_is_not_no_memory_at_all(tmp_path, monkeypatch):
    def too_large(*_):
        raise MemoryError

    (tmp_path / "x").touch()
    monkeypatch.setattr(files, "read_range", too_large)
    with pytest.raises(OSError, match="more memory than there is"):
        files.read_bytes(tmp_path / "x", 10)
    monkeypatch.setattr(files, "_SMALL_IMAGE_BYTES", 1 << 62)  # nothing is left
    with pytest.raises(MemoryError, match="fewer workers"):
        files.read_bytes(tmp_path / "x", 10)
