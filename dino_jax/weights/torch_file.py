"""Reads the files that torch.save writes, without torch and without executing anything in them.

Such a file is a zip archive of uncompressed entries: NAME/data.pkl is a pickle of the containers,
in which every tensor names its storage, NAME/data/KEY is the memory of one storage (PyTorch's
serialization notes).
"""

import dataclasses
import math
import reprlib
import zipfile
from collections.abc import Mapping
from typing import IO, Any

import jax.numpy as jnp
import numpy as np

from dino_jax.weights.pickle_machine import Inert, RefusedError, plain_keys, read_pickle

MAX_PICKLE_BYTES = 256 * 2**20  # of the containers; real checkpoints need a few megabytes
MAX_DIRECTORY_BYTES = 16 * 2**20  # of the archive; 10,000 tensors need about one megabyte
MAX_AXES = 32
_END_BYTES = 2**16 + 200  # in which the end of an archive lies: a comment and the last records
_LEGACY_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"  # torch's magic number, at the start

_STORAGES = {
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(jnp.bfloat16),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
}


@dataclasses.dataclass(frozen=True)
class Storage:
    """A block of memory in the file."""

    entry: str
    dtype: np.dtype
    count: int  # numbers in it


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor of the file, not read yet; offset and strides count elements of its storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self):
        axes = len(self.shape)
        numbers = (self.offset, *self.shape, *self.strides) if axes <= MAX_AXES else ()
        if axes != len(self.strides) or not all(
            type(n) is int and 0 <= n < 2**60 for n in numbers or (None,)
        ):
            shape, strides = reprlib.repr(self.shape), reprlib.repr(self.strides)
            raise RefusedError(f"a tensor has shape {shape} and strides {strides}")
        count = int(np.prod(self.shape, dtype=object)) if self.shape else 1
        last = self.offset + sum(
            (n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True)
        )
        if count and (last >= self.storage.count or count > self.storage.count):
            raise RefusedError(
                f"a tensor of shape {self.shape} needs more numbers than the "
                f"{self.storage.count} of its storage {self.storage.entry}"
            )

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.storage.dtype.itemsize


class TorchFile:
    """An open file of torch.save.

    Attributes:
      content: saved content, with `StoredTensor`s for the tensors; objects that are not data, such
        as the arguments of a training run, are `Inert`.
    """

    def __init__(self, file: IO[bytes]):
        """Reads the containers.

        Args:
          file: seekable; stays open as long as tensors are read.

        Raises:
          ValueError: if it was not written by torch.save, is damaged, or holds more than data.
        """
        self._archive = _open_archive(file)
        self._sizes = {info.filename: info.file_size for info in self._archive.infolist()}
        pickles = [name for name in self._sizes if name.count("/") == 1 and "/data.pkl" in name]
        if len(pickles) != 1:
            raise RefusedError("it is a zip archive, but not from torch.save: it has no data.pkl")
        self._root = pickles[0].removesuffix("data.pkl")
        if self._sizes[pickles[0]] > MAX_PICKLE_BYTES:
            raise RefusedError(f"its containers have {self._sizes[pickles[0]]:,} bytes")
        order = f"{self._root}byteorder"
        if order in self._sizes and self._read(order) != b"little":
            raise RefusedError("it was saved on a big-endian machine; save it again elsewhere")
        self._memory: dict[str, np.ndarray] = {}
        self.content = read_pickle(self._read(pickles[0]), _KNOWN, self._storage)

    def array(self, tensor: StoredTensor) -> np.ndarray:
        """The values of a tensor in its own dtype; read-only, may share its memory with others.

        Raises:
          ValueError: if its storage is damaged.
        """
        storage = tensor.storage
        if storage.entry not in self._memory:
            numbers = np.frombuffer(self._read(storage.entry), storage.dtype)
            self._memory[storage.entry] = numbers
        strides = [stride * storage.dtype.itemsize for stride in tensor.strides]
        start = self._memory[storage.entry][tensor.offset :]
        return np.lib.stride_tricks.as_strided(start, tensor.shape, strides, writeable=False)

    def _storage(self, identity: Any) -> Storage:
        """("storage", type, key, device, numbers), the persistent id of a storage."""
        if not isinstance(identity, tuple) or len(identity) != 5 or identity[0] != "storage":
            raise RefusedError("its pickle is damaged: a storage has no type, key or size")
        _, kind, key, _, count = identity
        if not isinstance(key, str) or type(count) is not int or not 0 <= count < 2**60:
            raise RefusedError("its pickle is damaged: a storage has no key or size")
        dtype = getattr(kind, "make", _refuse_storage)()
        entry = f"{self._root}data/{key}"
        if entry not in self._sizes:
            raise RefusedError(f"the storage {entry} is missing")
        if self._sizes[entry] != count * dtype.itemsize:
            raise RefusedError(
                f"the storage {entry} has {self._sizes[entry]} bytes, its tensors claim {count} "
                f"numbers of {dtype}"
            )
        return Storage(entry, dtype, count)

    def _read(self, name: str) -> bytes:
        try:
            return self._archive.read(name)
        # What zipfile raises for damaged headers: BadZipFile, OSError, struct.error and others.
        except Exception as error:
            raise RefusedError(f"{name} is damaged: {error}") from error


def _open_archive(file: IO[bytes]) -> zipfile.ZipFile:
    """Opens the archive; as nothing is compressed, its entries must fit into the file."""
    if file.read(64).find(_LEGACY_MAGIC) >= 0:
        raise RefusedError(
            "it has the format before torch 1.6, which only torch reads: there, "
            "torch.save(torch.load(FILE, weights_only=True), NEW_FILE) converts it"
        )
    size = file.seek(0, 2)
    _require_short_directory(file, size)
    try:
        archive = zipfile.ZipFile(file)
    except Exception as error:  # as above
        raise RefusedError(f"it is not a file of torch.save, or is truncated: {error}") from error
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise RefusedError("it holds compressed entries, which torch never writes")
    total = sum(entry.file_size for entry in entries)
    if total > size:
        raise RefusedError(f"its entries claim {total:,} bytes of a file that has {size:,}")
    return archive


def _require_short_directory(file: IO[bytes], size: int) -> None:
    """Checks the size of the archive's directory, which zipfile reads and keeps as a whole."""
    file.seek(max(0, size - _END_BYTES))
    end = file.read(_END_BYTES)
    record, record64 = end.rfind(b"PK\5\6"), end.rfind(b"PK\6\6")
    claims = [int.from_bytes(end[record + 12 : record + 16], "little")] if record >= 0 else []
    if record64 >= 0 and claims == [0xFFFFFFFF]:
        claims = [int.from_bytes(end[record64 + 40 : record64 + 48], "little")]
    if any(claim > MAX_DIRECTORY_BYTES for claim in claims):
        raise RefusedError(f"the directory of its archive has {claims[0]:,} bytes")


def _rebuild_tensor(storage: Any, offset: int, shape: Any, strides: Any, *unused: Any):
    if not isinstance(storage, Storage):
        raise RefusedError("its pickle is damaged: a tensor has no storage")
    if not isinstance(shape, tuple | list) or not isinstance(strides, tuple | list):
        raise RefusedError("its pickle is damaged: a tensor has no shape")
    return StoredTensor(storage, offset, tuple(shape), tuple(strides))


def _refuse_storage() -> np.dtype:
    raise RefusedError("its pickle is damaged: a storage has no type")


def _make_inert(*unused: Any) -> Inert:
    return Inert()


def _make_dict(pairs: Any = ()) -> dict[Any, Any]:
    keys, values = [key for key, _ in pairs], [value for _, value in pairs]
    return dict(zip(plain_keys(keys), values, strict=True))


def _storage_types() -> Mapping[str, Any]:
    return {name: (lambda dtype=dtype: dtype) for name, dtype in _STORAGES.items()}


# Everything that a file may name. Optimizers and arguments of training runs use the inert ones.
_KNOWN = {
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *unused: tensor,
    "collections.OrderedDict": _make_dict,
    "argparse.Namespace": _make_inert,
    "numpy.dtype": _make_inert,
    "numpy.core.multiarray.scalar": _make_inert,
    "numpy._core.multiarray.scalar": _make_inert,
    "_codecs.encode": _make_inert,
    **_storage_types(),
}
