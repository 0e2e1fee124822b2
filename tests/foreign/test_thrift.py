"""Thrift's compact protocol; bytes by hand from its specification."""

import pytest

from dino_jax.foreign.thrift import MAX_DEPTH, parse_struct

# 1: -3, 2: "ab", 5: [1, -1], 6: struct {1: 300}, 7: [struct {}, struct {1: 2}], 300: 1
STRUCT = (
    b"\x15\x05\x18\x02ab\x39\x25\x02\x01\x1c\x16\xd8\x04\x00\x19\x2c\x00\x15\x04\x00"
    b"\x05\xd8\x04\x02\x00"
)


def test_wanted_fields_are_read_and_others_skipped():
    everything = {1: None, 2: None, 5: None, 6: {1: None}, 7: {1: None}, 300: None, 9: None}
    assert parse_struct(STRUCT, everything) == {
        1: -3,
        2: b"ab",
        5: [1, -1],
        6: {1: 300},
        7: [{}, {1: 2}],
        300: 1,
    }
    assert parse_struct(STRUCT, {300: None}) == {300: 1}


def test_all_types_are_skipped():
    # true, false, i8, double, a set, a map of i8 to "", an empty map, a list of booleans
    data = b"\x11\x12\x13\xff\x17" + bytes(8) + b"\x1a\x13\x07\x1b\x01\x38\x07\x00\x1b\x00"
    assert parse_struct(data + b"\x19\x21\x01\x02\x15\x0e\x00", {9: None}) == {9: 7}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (STRUCT[:-1], "ends too early"),
        (b"\x18\x7fab\x00", "ends too early"),
        (b"", "ends too early"),
        (b"\x19\xfc\xff\xff\xff\xff\x0f", "4,294,967,295 values in fewer bytes"),
        (b"\x15" + b"\xff" * 11, "more than 64 bits"),
        (b"\x1c" * 1000, f"deeper than {MAX_DEPTH}"),
        (b"\x19\x19" + b"\x19" * 1000, f"deeper than {MAX_DEPTH}"),
        (b"\x1e\x00", "unknown type 14"),
        (b"\x65\x02\x00", "field 6 has the type 5"),
        (b"\x69\x15\x02\x00", "list of the type 5 where structs belong"),
        (b"\x2c\x00\x00", "type 12 where numbers or texts belong"),
    ],
)
def test_damage_is_one_error(data, why):
    with pytest.raises(ValueError, match=why):
        parse_struct(data, {2: None, 6: {}})
