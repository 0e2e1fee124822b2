"""Files of weights: what is read, and what is refused."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from dino_jax.weights import read_state_dict

TENSORS = {
    "cls_token": np.arange(6, dtype=np.float32).reshape(1, 1, 6),
    "norm.weight": np.array([1.5, -2.0], np.float16),
    "norm.num_batches_tracked": np.array(7, np.int64),
}


def write_safetensors(path, entries):
    """A file byte for byte as its specification says, for dtypes that NumPy does not have."""
    header, data = {}, b""
    for name, (dtype, shape, raw) in entries.items():
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_a_safetensors_file_gives_its_arrays(tmp_path):
    save_file(TENSORS, tmp_path / "w.safetensors")
    got = read_state_dict(tmp_path / "w.safetensors")
    assert got.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert got[name].dtype == value.dtype
        np.testing.assert_array_equal(got[name], value)


def test_bfloat16_is_read(tmp_path):
    values = np.array([1.0, -0.15625, 3e38], ml_dtypes.bfloat16)
    write_safetensors(tmp_path / "w.safetensors", {"a": ("BF16", [3], values.tobytes())})
    np.testing.assert_array_equal(read_state_dict(tmp_path / "w.safetensors")["a"], values)


def test_another_dtype_is_named(tmp_path):
    write_safetensors(tmp_path / "w.safetensors", {"a": ("U8", [2], b"ab")})
    with pytest.raises(ValueError, match=r"safetensors is not read: 'a' is stored as 'U8'; known"):
        read_state_dict(tmp_path / "w.safetensors")


@pytest.mark.parametrize("damage", [lambda b: b[:-3], lambda b: b"", lambda b: b"\x80" * 40])
def test_a_damaged_safetensors_file_is_a_clear_error(tmp_path, damage):
    file = tmp_path / "w.safetensors"
    save_file(TENSORS, file)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"w.safetensors .* not a safetensors file, or is damaged"):
        read_state_dict(file)


def test_a_missing_file_and_an_unknown_suffix_are_clear_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"w.safetensors does not exist"):
        read_state_dict(tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"w.npz is not a file of weights; known suffixes: .safet"):
        read_state_dict(tmp_path / "w.npz")
