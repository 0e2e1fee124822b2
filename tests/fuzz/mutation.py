"""Ways to damage the bytes of a file, and things in a folder that are no files."""

import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

NUMBERS = (0, 1, 2, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)
TEXTS = (b"-1", b"0", b"99999999999999999999", b"1e999", b"NaN", b"-0x1", b"9" * 5000, b"1e-320")
ODD = (b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[2J", b"\r\n", b"\xed\xa0\x80", b'"', b"\\")
ODD += (b"http://", b"file://", b"gs://", b"//", b"\t")
OPENING = (b"[", b"{", b'{"a":', b"(", b"- ", b"*a ", b"}\n", b"]")


def mutate(data: bytes, others: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """A damaged copy, by one to four of the ways below.

    Args:
      data: a valid file.
      others: valid files to take pieces from.
      rng: the only source of choices.
    """
    for _ in range(min(int(rng.geometric(0.6)), 4)):
        way = WAYS[rng.integers(len(WAYS))]
        data = way(data, others, rng)[:MOST_BYTES]
    return data


MOST_BYTES = 1 << 22


def _place(data: bytes, rng: np.random.Generator) -> int:
    """Half of the places are near the beginning, where headers are."""
    end = min(len(data), 200) if rng.random() < 0.5 else len(data)
    return int(rng.integers(end + 1))


def _cut(data, others, rng):
    return data[: _place(data, rng)]


def _flip(data, others, rng):
    changed = bytearray(data)
    for _ in range(1 + int(rng.integers(8)) if data else 0):
        place = min(_place(data, rng), len(data) - 1)
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _overwrite(data, others, rng):
    start, size = _place(data, rng), int(rng.integers(1, 40))
    fill = [rng.bytes(size), b"\0" * size, b"\xff" * size, b"\x7f" * size][rng.integers(4)]
    return data[:start] + fill + data[start + size :]


def _lie(data, others, rng):
    """A number that is not true, in one of the usual widths and orders."""
    kind = ("<B", "<H", ">H", "<I", ">I", "<Q", ">Q")[rng.integers(7)]
    size = struct.calcsize(kind)
    number = NUMBERS[rng.integers(len(NUMBERS))] % 256**size
    start = _place(data, rng)
    return data[:start] + struct.pack(kind, number) + data[start + size :]


def _lie_in_digits(data, others, rng):
    digits = [place for place in range(min(len(data), 20_000)) if data[place : place + 1].isdigit()]
    if not digits:
        return _lie(data, others, rng)
    start = end = digits[rng.integers(len(digits))]
    while data[end : end + 1].isdigit():
        end += 1
    return data[:start] + TEXTS[rng.integers(len(TEXTS))] + data[end:]


def _splice(data, others, rng):
    other = others[rng.integers(len(others))]
    first, second = _place(data, rng), _place(other, rng)
    return data[:first] + other[second:]


def _repeat(data, others, rng):
    start = _place(data, rng)
    piece = data[start : start + int(rng.integers(1, 200))]
    return data[:start] + piece * int(rng.integers(2, 2000)) + data[start:]


def _drop(data, others, rng):
    start = _place(data, rng)
    return data[:start] + data[start + int(rng.integers(1, 100)) :]


def _insert_odd(data, others, rng):
    start = _place(data, rng)
    return data[:start] + ODD[rng.integers(len(ODD))] + data[start:]


def _nest(data, others, rng):
    start = _place(data, rng)
    return (
        data[:start]
        + OPENING[rng.integers(len(OPENING))] * int(rng.integers(2, 200_000))
        + data[start:]
    )


def _noise(data, others, rng):
    return rng.bytes(int(rng.integers(0, 3000)))


WAYS = (_cut, _flip, _flip, _overwrite, _lie, _lie, _lie_in_digits, _splice, _repeat, _drop)
WAYS += (_insert_odd, _nest, _noise)


def put_special(path: Path, rng: np.random.Generator) -> str:
    """Puts something that is no usual file at `path`; returns what."""
    kind = SPECIAL[rng.integers(len(SPECIAL))]
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(path))  # at most 107 bytes
    elif kind == "circle":
        path.symlink_to(path.name)
    elif kind == "broken link":
        path.symlink_to("nothing")
    elif kind == "folder":
        path.mkdir()
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        path.touch()
        os.truncate(path, 40 << 30)  # sparse
    return kind


SPECIAL = ("pipe", "socket", "circle", "broken link", "folder", "endless", "empty", "sparse")
