"""A text in pieces: what is written grows as the text does, and a crash loses nothing."""

import random

import pytest
from etils import epath

from dino_jax.workdir import json_lines
from dino_jax.workdir.json_lines import JsonLines, read_json_lines
from dino_jax.workdir.pieces import PIECE, Pieces, read_pieces


class Store:
    """Counts the bytes that are written below a folder; may crash before one of the operations."""

    def __init__(self, monkeypatch):
        self.written, self.operations, self.crash_at = 0, 0, None
        kind = type(epath.Path("/tmp"))
        write, unlink = kind.write_bytes, kind.unlink

        def counted(path, data):
            self._count()
            self.written += len(data)
            return write(path, data)

        def removed(path, *args, **kwargs):
            self._count()
            return unlink(path, *args, **kwargs)

        monkeypatch.setattr(kind, "write_bytes", counted)
        monkeypatch.setattr(kind, "unlink", removed)

    def _count(self):
        if self.operations == self.crash_at:
            raise KeyboardInterrupt("killed")
        self.operations += 1


@pytest.fixture
def store(monkeypatch):
    return Store(monkeypatch)


def line(number: int, size: int) -> bytes:
    return f"{number:06d}".encode() + b"x" * (size - 7) + b"\n"


def test_what_is_written_is_a_small_multiple_of_the_text(store, tmp_path):
    path, size = epath.Path(tmp_path / "metrics.jsonl"), 8000
    pieces = Pieces(path, b"")
    for number in range(1000):
        pieces.append(line(number, size))
    whole = b"".join(line(number, size) for number in range(1000))
    assert read_pieces(path) == whole
    # Every line again for each line of its piece (8 lines, 4.5 on average), and once per level.
    levels = len(whole) // PIECE
    assert store.written <= len(whole) * (5 + levels.bit_length())
    assert store.written < len(whole) * 1000 / 2 / 20  # a twentieth of writing all for each line
    assert len(list(tmp_path.iterdir())) <= 2 + levels.bit_length()
    pieces.join()
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert path.read_bytes() == whole
    pieces.append(line(1000, size))
    assert read_pieces(path) == whole + line(1000, size)


def test_a_small_text_is_one_file(tmp_path):
    path = epath.Path(tmp_path / "diagnosis.jsonl")
    pieces = Pieces(path, b"one\n")
    pieces.append(b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"
    assert [p.name for p in tmp_path.iterdir()] == ["diagnosis.jsonl"]


def test_a_kill_between_any_two_operations_loses_no_finished_line(store, tmp_path):
    size, lines = 30_000, 14  # three lines to a piece
    expected = [line(number, size) for number in range(lines)]
    crash_at = 0
    while True:
        path = epath.Path(tmp_path / f"{crash_at}.jsonl")
        store.operations, store.crash_at, finished = 0, None, 0
        pieces = Pieces(path, b"")
        store.operations, store.crash_at = 0, crash_at
        try:
            for text in expected:
                pieces.append(text)
                finished += 1
            pieces.join()
        except KeyboardInterrupt:
            found = read_pieces(path)
            # The line at which it was killed may be there, whole.
            assert found in (b"".join(expected[:finished]), b"".join(expected[: finished + 1]))
            store.crash_at = None
            again = Pieces(path, found)  # as a resume does
            again.append(b"later\n")
            assert read_pieces(path) == found + b"later\n"
            crash_at += 1
            continue
        assert read_pieces(path) == b"".join(expected)
        return


def test_pieces_of_an_earlier_text_are_not_read(store, tmp_path):
    path = epath.Path(tmp_path / "metrics.jsonl")
    pieces = Pieces(path, b"")
    for number in range(10):
        pieces.append(line(number, 30_000))
    store.operations, store.crash_at = 0, 1  # after the first write, before the pieces are removed
    with pytest.raises(KeyboardInterrupt):
        Pieces(path, line(0, 30_000))
    assert len(list(tmp_path.iterdir())) > 1
    assert read_pieces(path) == line(0, 30_000)


def test_a_history_in_pieces_is_resumed_as_one_in_a_file(monkeypatch, tmp_path):
    monkeypatch.setattr(json_lines, "is_remote", lambda path: "remote" in str(path))
    draws = random.Random(0)
    files = [epath.Path(tmp_path / name) for name in ("remote.jsonl", "local.jsonl")]
    start, logs = 0, []
    for _ in range(4):
        logs = [JsonLines(path, start) for path in files]
        stop = start + 60
        for step in range(start + 1, stop + 1):
            record = {"step": step, "text": "y" * draws.randrange(100, 4000)}
            for log in logs:
                log.append(record)
        histories = [read_json_lines(path, 10**9) for path in files]
        assert histories[0] == histories[1] and histories[0][-1]["step"] == stop
        assert len(list(tmp_path.glob("remote*"))) > 1
        start = stop - 25
    logs[0].close()
    assert files[0].read_bytes() == files[1].read_bytes()
    assert len(list(tmp_path.iterdir())) == 2
