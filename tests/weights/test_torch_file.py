"""Files of torch.save, made here byte for byte: what is read, and what is refused."""

import os
import pickle
import zipfile
import zlib

import ml_dtypes
import numpy as np
import pytest

from dino_jax.weights.state_dict import read_state_dict, read_weights
from tests.weights.torch_files import pickled, tensor, write


def call(name, *arguments):
    return b"c" + name.replace(".", "\n").encode() + b"\n" + pickled(arguments) + b"R"


SIX = np.arange(6, dtype=np.float32)


def test_offsets_strides_and_shared_storages_are_followed(tmp_path):
    content = {
        "rows": tensor("0", 6, (2, 3), (3, 1)),
        "transposed": tensor("0", 6, (3, 2), (1, 3)),
        "end": tensor("0", 6, (2,), (1,), offset=4),
        "scalar": tensor("0", 6, (), (), offset=3),
        "nothing": tensor("1", 0, (0, 3), (3, 1)),
    }
    got = read_state_dict(write(tmp_path / "w.pth", content, {"0": SIX, "1": SIX[:0]}))
    np.testing.assert_array_equal(got["rows"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(got["transposed"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(got["end"], [4, 5])
    assert got["scalar"] == 3 and got["scalar"].shape == () and got["nothing"].shape == (0, 3)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("DoubleStorage", np.float64),
        ("HalfStorage", np.float16),
        ("BFloat16Storage", ml_dtypes.bfloat16),
        ("LongStorage", np.int64),
        ("IntStorage", np.int32),
        ("ByteStorage", np.uint8),
        ("BoolStorage", np.bool_),
    ],
)
def test_every_dtype_stays_what_it_is(tmp_path, kind, dtype):
    values = np.array([1, 0, 1]).astype(dtype)
    content = {"a": tensor("0", 3, (3,), (1,), kind=kind)}
    got = read_state_dict(write(tmp_path / "w.bin", content, {"0": values}))["a"]
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, values)


def test_a_training_checkpoint_is_sorted_into_its_networks_and_the_rest(tmp_path):
    content = {
        "student": {"module.backbone.a": tensor("0", 6, (6,), (1,))},
        "teacher": {"backbone.a": tensor("0", 6, (3,), (2,))},
        "optimizer": {"state": {0: {"exp_avg": tensor("0", 6, (6,), (1,))}}},
        "dino_loss": {"center": tensor("0", 6, (1, 6), (6, 1))},
        "args": b"cargparse\nNamespace\n)\x81" + pickled({"lr": "x"}) + b"b",
        "lr": b"cnumpy.core.multiarray\nscalar\n" + pickled(("f8",)) + b"R",
        "epoch": 3,
    }
    weights = read_weights(write(tmp_path / "w.pth", content, {"0": SIX}))
    assert weights.main == "teacher" and weights.networks.keys() == {"teacher", "student"}
    np.testing.assert_array_equal(weights.networks["teacher"]["backbone.a"], [0, 2, 4])
    np.testing.assert_array_equal(weights.networks["student"]["backbone.a"], SIX)
    np.testing.assert_array_equal(weights.centers["dino"], SIX)
    assert weights.left_out == {"optimizer": 1}
    flat = {"model": {f"{role}.a": tensor("0", 6, (6,), (1,)) for role in ("teacher", "student")}}
    weights = read_weights(write(tmp_path / "flat.pth", flat, {"0": SIX}))
    assert {role: list(x) for role, x in weights.networks.items()} == {
        "teacher": ["a"],
        "student": ["a"],
    }


def test_tensors_that_belong_nowhere_are_listed(tmp_path):
    one = tensor("0", 6, (6,), (1,))
    write(tmp_path / "w.pth", {"teacher": {"a": one}, "buffer": {"b": one}, "c": one}, {"0": SIX})
    with pytest.raises(ValueError, match=r"besides those of its networks:\n  buffer\.b\n  c$"):
        read_weights(tmp_path / "w.pth")
    write(tmp_path / "w.pth", {"a": one, "module.a": one}, {"0": SIX})
    with pytest.raises(ValueError, match=r"names a twice, the second time as module\.a"):
        read_weights(tmp_path / "w.pth")
    write(tmp_path / "w.pth", {"epoch": 3})
    with pytest.raises(ValueError, match=r"w.pth holds no weights: it has no tensors under names"):
        read_weights(tmp_path / "w.pth")


class Command:
    """Unpickled freely, it would leave a file behind."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_a_pickle_that_calls_os_system_is_refused_and_nothing_runs(tmp_path, protocol):
    trace = tmp_path / "trace"
    data = pickle.dumps({"a": 1, "b": Command(f"touch {trace}")}, protocol)
    pickle.loads(data)
    assert trace.exists()  # so it does run in a free unpickler
    trace.unlink()
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("w/data.pkl", data)
    with pytest.raises(ValueError, match=r"w\.pth is not read: it asks for (posix|nt)\.system"):
        read_state_dict(tmp_path / "w.pth")
    assert not trace.exists()


ONE = {"0": SIX}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (call("builtins.eval", "1"), "it asks for builtins.eval, which is refused"),
        (pickled("builtins") + pickled("eval") + b"\x93", "it asks for builtins.eval"),
        (b"ctorch._utils\n_rebuild_tensor_v3\n", "asks for torch._utils._rebuild_tensor_v3"),
        (b"(i__main__\nA\n", "pickle instruction INST"),
        (b"}]b", "holds no weights"),
        (pickled(1) + b")R", "it calls something that is not a function"),
        (b"(" * 9, "its pickle is damaged"),
        (b"t", "its pickle is damaged"),
        (b"h\x05", "its pickle is damaged"),
        (pickled(5) + b"Q", "a storage has no type, key or size"),
        (
            {"a": tensor("0", 6, (7,), (1,))},
            "more numbers than the 6 of its storage w/data/0",
        ),
        ({"a": tensor("0", 6, (2,), (1,), offset=5)}, "needs more numbers than the 6"),
        ({"a": tensor("0", 6, (10**6, 10**6), (0, 0))}, "needs more numbers than the 6"),
        ({"a": tensor("0", 6, (2,), (-1,), offset=3)}, r"strides \(-1,\)"),
        ({"a": tensor("0", 6, (2, 3), (1,))}, r"shape \(2, 3\) and strides \(1,\)"),
        ({"a": tensor("0", 5, (5,), (1,))}, "24 bytes, its tensors claim 5 numbers of float32"),
        ({"a": tensor("0", 6, (6,), (1,), kind="LongStorage")}, "claim 6 numbers of int64"),
        ({"a": tensor("../0", 6, (6,), (1,))}, r"the storage w/data/\.\./0 is missing"),
        ({"a": tensor("0", 6, (6,), (1,), kind="QInt8Storage")}, "it asks for torch.QInt8Storage"),
    ],
)
def test_a_file_that_is_wrong_says_what_is_wrong(tmp_path, content, reason):
    with pytest.raises(ValueError, match=reason):
        read_state_dict(write(tmp_path / "w.pth", content, ONE))


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.6, 0.9, 0.99])
def test_a_file_that_was_cut_off_is_a_clear_error(tmp_path, kept):
    file = write(tmp_path / "w.pth", {"a": tensor("0", 6, (6,), (1,))}, ONE)
    data = file.read_bytes()
    file.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(ValueError, match=r"w\.pth is not read: it is not a file of torch.save, or"):
        read_state_dict(file)


def test_a_flipped_bit_is_found(tmp_path):
    file = write(tmp_path / "w.pth", {"a": tensor("0", 6, (6,), (1,))}, ONE)
    data = file.read_bytes()
    assert data.count(SIX.tobytes()) == 1
    file.write_bytes(data.replace(SIX.tobytes(), (SIX + 1).tobytes()))
    with pytest.raises(ValueError, match=r"w/data/0 is damaged: Bad CRC-32"):
        read_state_dict(file)


def test_archives_that_claim_more_than_they_have_are_refused(tmp_path):
    zeros = {"0": np.zeros(10**6, np.float32)}
    content = {"a": tensor("0", 10**6, (10**6,), (1,))}
    write(tmp_path / "w.pth", content, zeros, compression=zipfile.ZIP_DEFLATED)
    assert (tmp_path / "w.pth").stat().st_size < 10_000
    with pytest.raises(ValueError, match="compressed entries, which torch never writes"):
        read_state_dict(tmp_path / "w.pth")
    # Many entries of the directory that are one and the same piece of the file.
    file = write(tmp_path / "w.pth", {"a": tensor("0", 6, (6,), (1,))}, {"0": np.zeros(1000)})
    with zipfile.ZipFile(file, "a") as archive:
        info = archive.getinfo("w/data/0")
        for index in range(9):
            twin = zipfile.ZipInfo(f"w/data/x{index}")
            twin.header_offset, twin.CRC = info.header_offset, zlib.crc32(bytes(8000))
            twin.file_size = twin.compress_size = info.file_size
            archive.filelist.append(twin)
        archive._didModify = True
    with pytest.raises(ValueError, match=r"its entries claim 8\d,\d\d\d bytes of a file that has"):
        read_state_dict(file)


def test_containers_that_hold_themselves_a_thousand_times_are_refused(tmp_path):
    laughs = b"(](" + pickled(1) * 10 + b"e"
    for _ in range(9):  # ten times the list before, which the memo keeps
        laughs += b"q\x01](" + b"h\x01" * 10 + b"e"
    laughs += b"t"
    with pytest.raises(ValueError, match="its containers hold more than 1,000,000 values"):
        read_state_dict(write(tmp_path / "w.pth", laughs))
    itself = b"]q\x00h\x00a"
    with pytest.raises(ValueError, match="holds no weights"):
        read_state_dict(write(tmp_path / "w.pth", itself))


def _doubled(times):
    """A tuple that holds one twice, that holds one twice …: 2^times parts, in few bytes."""
    return b")" + b"q\x05h\x05\x86" * times


CALL = b"ccollections\nOrderedDict\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"(" * 100_000 + b"t" * 100_000, "no tensors"),  # each was a copy of the stack
        (b"}" + _doubled(60) + b"K\x01s", "a key is neither text nor a number"),
        (b"\x8f(" + _doubled(60) + b"\x90", "a key is neither text nor a number"),
        (CALL + b"](" + _doubled(60) + b"K\x01\x86e\x85R", "damaged"),  # dict([(key, 1)])
        (b"ctorch._utils\n_rebuild_tensor_v2\n(" + _doubled(60) + b"tR", "damaged"),
        (tensor("0", 6, (), ()).replace(b"(t\x89", _doubled(60) + b")\x89"), "shape"),
        (b"\x8c\x01x" + _doubled(60) + b"\x93", "something that is not a name"),
        (b"](" + b"N" * 2_000_000 + b"e", "more than 2,000,000 instructions"),
        # The same 20,000 pairs, again and again.
        (b"](" + b"K\x01K\x02\x86" * 20_000 + b"eq\x05" + b"(" + (CALL + b"h\x05\x85R") * 1000
         + b"t\x86", "again and again"),
        # A list of 100,000 references to one name of a megabyte.
        (b"]q\x05(" + b"}X\x40\x42\x0f\0" + b"n" * 1_000_000 + b"K\x01sq\x06" + b"h\x06" * 100_000
         + b"e", "endless names"),
    ],
    ids=range(10),
)  # fmt: skip
def test_small_pickles_that_would_take_for_ever_are_refused(content, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        read_state_dict(write(tmp_path / "w.pth", content, ONE))


def test_a_directory_of_a_million_entries_is_not_read(tmp_path):
    file = write(tmp_path / "w.pth", {"a": tensor("0", 6, (2, 3), (3, 1))}, ONE)
    data = bytearray(file.read_bytes())
    end = data.rindex(b"PK\5\6")
    data[end + 12 : end + 16] = (100 << 20).to_bytes(4, "little")
    file.write_bytes(data)
    with pytest.raises(ValueError, match="the directory of its archive has 104,857,600 bytes"):
        read_state_dict(file)


def test_whatever_is_changed_in_a_pickle_gives_arrays_or_a_value_error(tmp_path):
    content = {"teacher": {"a": tensor("0", 6, (2, 3), (3, 1))}, "args": (1, "b", {"c": 2})}
    good, rng, refused = pickled(content), np.random.default_rng(0), 0
    for _ in range(300):
        changed = bytearray(good)
        changed[rng.integers(len(good))] = rng.integers(256)
        try:
            read_state_dict(write(tmp_path / "w.pth", bytes(changed), ONE))
        except ValueError:
            refused += 1
    assert 200 < refused < 300


def test_other_archives_and_formats_are_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("notes.txt", "hello")
    with pytest.raises(ValueError, match=r"not from torch\.save: it has no data\.pkl"):
        read_state_dict(tmp_path / "w.pth")
    write(tmp_path / "w.pth", {"a": 1}, byteorder="big")
    with pytest.raises(ValueError, match="saved on a big-endian machine"):
        read_state_dict(tmp_path / "w.pth")
    magic = 0x1950A86A20F9469CFC6C  # of the format before torch 1.6
    (tmp_path / "w.pth").write_bytes(pickle.dumps(magic, 2) + pickle.dumps({}, 2))
    with pytest.raises(ValueError, match=r"the format before torch 1\.6, which only torch reads"):
        read_state_dict(tmp_path / "w.pth")
