"""Pickles of plain data are read, all others refused, and nothing in them runs."""

import contextlib
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from dino_jax.evaluation.plain_pickle import read_plain_pickle

GROUND_TRUTH = {
    "imlist": ["a_1", "b_2"],
    "gnd": [{"bbx": [1.5, 2.0], "easy": np.array([1, 0]), "hard": np.array([], np.int32)}],
    "mixed": (None, True, 3, b"\xff\x00", np.arange(6.0).reshape(2, 3)),
}


class Evil:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", (2, 3, 4, 5))
def test_arrays_in_lists_and_dicts_come_back(protocol):
    read = read_plain_pickle(pickle.dumps(GROUND_TRUTH, protocol))
    assert read["imlist"] == ["a_1", "b_2"] and read["gnd"][0]["bbx"] == [1.5, 2.0]
    np.testing.assert_array_equal(read["gnd"][0]["easy"], [1, 0])
    assert read["gnd"][0]["hard"].dtype == np.int32 and read["gnd"][0]["hard"].shape == (0,)
    assert read["mixed"][:4] == (None, True, 3, b"\xff\x00")
    np.testing.assert_array_equal(read["mixed"][4], np.arange(6).reshape(2, 3))


@pytest.mark.parametrize("protocol", (2, 4))
def test_columns_first_big_endian_scalars_and_text_come_back(protocol):
    values = [
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.arange(3, dtype=">i4"),
        np.array(["ab", "c"]),
        np.array([True, False]),
    ]
    for value in values:
        np.testing.assert_array_equal(read_plain_pickle(pickle.dumps(value, protocol)), value)
    assert read_plain_pickle(pickle.dumps(np.float32(1.5), protocol)) == 1.5


def test_a_pickle_of_python_2_is_read():
    # pickle.dumps({"junk": np.array([3, 300], np.int32)}, 2) of Python 2, whose str are bytes.
    data = (
        b"\x80\x02}U\x04junkcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b"
        b"\x87R(K\x01K\x02\x85cnumpy\ndtype\nU\x02i4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x08\x03\x00\x00\x00\x2c\x01\x00\x00tbs."
    )
    np.testing.assert_array_equal(read_plain_pickle(data)["junk"], [3, 300])


@pytest.mark.parametrize("protocol", (2, 4))
@pytest.mark.parametrize(
    ("call", "arguments"),
    [(os.system, ("touch {}",)), (eval, ("1",)), (OrderedDict, ()), (Path, ("x",))],
)
def test_what_calls_something_is_refused_and_not_run(tmp_path, protocol, call, arguments):
    target = tmp_path / "ran"
    arguments = [text.format(target) for text in arguments]
    data = pickle.dumps({"gnd": [Evil(call, *arguments)]}, protocol)
    with pytest.raises(ValueError, match=r"it asks for .* which is refused"):
        read_plain_pickle(data)
    assert not target.exists()


def test_arrays_of_objects_and_damaged_files_are_refused():
    with pytest.raises(ValueError, match="only numbers and text"):
        read_plain_pickle(pickle.dumps(np.array([{}, None], object)))
    data = pickle.dumps(GROUND_TRUTH, 2)
    for end in range(0, len(data), 7):
        with pytest.raises(ValueError, match="damaged"):
            read_plain_pickle(data[:end])
    circle: list = []
    circle.append(circle)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_plain_pickle(pickle.dumps(circle))
    rng = np.random.default_rng(0)
    for _ in range(200):  # whatever happens is a ValueError or plain data
        broken = bytearray(data)
        broken[rng.integers(len(data))] = rng.integers(256)
        with contextlib.suppress(ValueError):
            read_plain_pickle(bytes(broken))
