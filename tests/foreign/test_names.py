"""A name of any bytes is one printable line, from which it can be told again."""

import os
import re

import numpy as np
import pytest

from dino_jax.foreign.names import for_terminal, one_line, printable


def _undo(text):
    """The inverse of `printable`, from what README says."""
    codes = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}

    def one(match):
        kind, digits = match[1][0], match[1][1:]
        if not digits:
            return codes[kind]
        return os.fsdecode(bytes([int(digits, 16)])) if kind == "x" else chr(int(digits, 16))

    pattern = r"\\(x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|[nrt\\])"
    return re.sub(pattern, one, text)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/ünï 猫.jpg", "a/ünï 猫.jpg"),
        (os.fsdecode(b"\xff\xfe.jpg"), r"\xff\xfe.jpg"),
        ("ÿ.jpg", "ÿ.jpg"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[2J\x7f\0", r"\x1b[2J\x7f\x00"),
        ("\x85\u2028\u202e\U000e0001", r"\u0085\u2028\u202e\U000e0001"),
        (r"a\nb", r"a\\nb"),
        ("\ud800", r"\ud800"),
    ],
)
def test_names_are_written_as_readme_says(name, expected):
    assert printable(name) == expected
    assert _undo(expected) == name
    assert for_terminal(one_line(name)).isprintable()


def test_different_names_stay_different():
    rng = np.random.default_rng(0)
    for _ in range(300):
        letters = rng.choice([9, 10, 27, 92, 97, 110, 120, 128, 195, 255], 9)
        name = os.fsdecode(bytes(letters.tolist()))
        assert printable(name).isprintable()
        assert _undo(printable(name)) == name


def test_a_message_keeps_its_lines_and_its_backslashes():
    assert for_terminal("a\n  \x1b[31mb\udcff\tc") == "a\n  \\x1b[31mb\\xff\tc"
    assert one_line("'\\udcff': a\nb\x07") == "'\\udcff': a\\nb\\x07"
