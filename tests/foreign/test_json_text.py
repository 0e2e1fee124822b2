"""JSON from outside is bounded in depth and numbers."""

import pytest

from dino_jax.foreign.json_text import parse_json, read_json


def test_usual_values_are_read_as_json_does():
    text = '{"a": [1, -2.5, 1e-8, null, true, "\\u00e9[{"], "b": 9223372036854775807}'
    expected = {"a": [1, -2.5, 1e-8, None, True, "é[{"], "b": 2**63 - 1}
    assert parse_json(text) == parse_json(text.encode()) == expected
    assert parse_json("0." + "1" * 40) == pytest.approx(1 / 9)
    assert parse_json(f'"{"[" * 1000}"') == "[" * 1000


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 65 + "]" * 65, "nested deeper than 64"),
        ('{"a":' * 65 + "1" + "}" * 65, "nested deeper than 64"),
        ("[" * 200_000, "nested deeper than 64"),
        ("[9223372036854775808]", "64 bits"),
        ("-" + "9" * 100_000, "64 bits"),
        ("{", "Expecting"),
        (b"\xff\xff", "decode"),
    ],
)
def test_depth_and_numbers_are_bounded(text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


def test_the_size_is_bounded(tmp_path):
    (tmp_path / "x.json").write_text("[" * 64 + "]" * 64)
    read_json(tmp_path / "x.json", 128)
    with pytest.raises(OSError, match="more than the 127"):
        read_json(tmp_path / "x.json", 127)
