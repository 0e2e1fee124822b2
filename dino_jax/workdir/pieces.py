"""A text that grows line by line where a file cannot be appended to, as on gs://.

Its end is a small piece of its own, which is written again with every line; full pieces are joined
when the second of two is no smaller than the first. So a run writes a few times the bytes of its
lines, and not their square, and there are never many pieces.

The first piece is the file itself. A later one has the byte at which it begins in its name,
metrics.jsonl.000000000065536, and is a part of the text if all before it ends there; others are
left over from a crash, as pieces are written before those that they replace are removed.
"""

import os
import re
from collections.abc import Iterator

from etils import epath

from dino_jax.foreign.files import open_regular, read_bytes, require_regular

MOST = 1 << 30  # bytes of a text that are read; a million lines of a kilobyte
LONGEST_LINE = 1 << 24  # bytes; the rest of a longer one is a line of its own
PIECE = 1 << 16  # bytes up to which a piece is written again for every line


class Pieces:
    """The text of a file in pieces; whoever opens it is the only one who writes it."""

    def __init__(self, path: epath.Path, text: bytes):
        """Begins with a text in one piece, instead of what is there."""
        self._path = path
        path.write_bytes(text)
        for _, piece in _later_pieces(path):
            piece.unlink()
        self._starts, self._end, self._last = [0], len(text), text if len(text) < PIECE else None

    def append(self, line: bytes) -> None:
        """Adds a line; it is in the store when this returns."""
        if self._last is None:
            self._starts.append(self._end)
            self._last = b""
        self._last += line
        self._end += len(line)
        self._piece(self._starts[-1]).write_bytes(self._last)
        if len(self._last) >= PIECE:
            self._last = None
            while len(self._starts) > 1 and self._size(-1) >= self._size(-2):
                self._join_last_two()

    def join(self) -> None:
        """Makes one piece of all."""
        while len(self._starts) > 1:
            self._join_last_two()

    def _join_last_two(self) -> None:
        second = self._piece(self._starts.pop())
        first = self._piece(self._starts[-1])
        first.write_bytes(first.read_bytes() + second.read_bytes())
        second.unlink()
        self._last = None

    def _size(self, index: int) -> int:
        ends = [*self._starts[1:], self._end]
        return ends[index] - self._starts[index]

    def _piece(self, start: int) -> epath.Path:
        return self._path.with_name(f"{self._path.name}.{start:015d}") if start else self._path


def read_pieces(path: epath.Path) -> bytes:
    """The whole text of a file, which may be in pieces.

    Raises:
      OSError: if a piece has more than `MOST` bytes, or is no regular file.
    """
    return b"".join(read_bytes(piece, MOST) for piece in _pieces(path))


def read_lines(path: epath.Path) -> Iterator[bytes]:
    """The lines of a file, which may be in pieces, one after the other.

    Raises:
      OSError: as `read_pieces`.
    """
    for piece in _pieces(path):
        with open_regular(piece) as file:
            yield from iter(lambda file=file: file.readline(LONGEST_LINE), b"")


def _pieces(path: epath.Path) -> list[epath.Path]:
    require_regular(path)
    pieces, end = [path], path.stat().length
    for start, piece in _later_pieces(path):
        if start > end:
            break
        if start == end:
            pieces.append(piece)
            end += piece.stat().length
    if end > MOST:
        raise OSError(
            f"{os.fspath(path)!r} has {end:,} bytes, more than the {MOST:,} that are read"
        )
    return pieces


def _later_pieces(path: epath.Path) -> list[tuple[int, epath.Path]]:
    named = re.compile(re.escape(path.name) + r"\.(\d{15})")
    found = ((named.fullmatch(other.name), other) for other in path.parent.glob(f"{path.name}.*"))
    return sorted((int(match[1]), other) for match, other in found if match)
