"""Writes files as torch.save does, byte for byte and without torch, right ones and wrong ones."""

import struct
import zipfile

import numpy as np

KINDS = {"float32": "FloatStorage", "int64": "LongStorage", "float16": "HalfStorage"}


def pickled(value):
    """Opcodes of protocol 2 for strings, numbers, tuples and dicts; bytes are opcodes already."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, tuple):
        return b"(" + b"".join(map(pickled, value)) + b"t"
    items = b"".join(pickled(key) + pickled(x) for key, x in value.items())
    return b"}(" + items + b"u"


def tensor(key, count, shape, strides, offset=0, kind="FloatStorage"):
    """Opcodes of a tensor as torch writes them."""
    storage = pickled(("storage", b"ctorch\n" + kind.encode() + b"\n", key, "cpu", count)) + b"Q"
    function = b"ctorch._utils\n_rebuild_tensor_v2\n"
    ordered = b"ccollections\nOrderedDict\n)R"
    return function + pickled((storage, offset, shape, strides, b"\x89", ordered)) + b"R"


def write(path, content, storages=None, compression=zipfile.ZIP_STORED, **more):
    """A file with a pickle of `content` and its storages."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("w/data.pkl", b"\x80\x02" + pickled(content) + b".")
        for name, text in {"byteorder": "little", "version": "3\n", **more}.items():
            archive.writestr(f"w/{name}", text)
        for key, memory in (storages or {}).items():
            archive.writestr(f"w/data/{key}", np.asarray(memory).tobytes())
    return path


def save(path, content):
    """What torch.save(content, path) writes for nested dicts of arrays."""
    storages = {}

    def convert(value):
        if isinstance(value, dict):
            return {key: convert(x) for key, x in value.items()}
        if not isinstance(value, np.ndarray):
            return value
        key = str(len(storages))
        storages[key] = value
        strides = tuple(stride // value.itemsize for stride in np.zeros_like(value).strides)
        return tensor(key, value.size, value.shape, strides, kind=KINDS[str(value.dtype)])

    return write(path, convert(content), storages)
