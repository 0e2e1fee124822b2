"""Memory that worker processes share with the trainer and fill over and over.

Grain moves every batch through new shared memory. Faulting in fresh pages for every batch can cost
a quarter of a worker's time on virtual machines.
"""

import ctypes
import math
import mmap
import os
import sys
import threading
import weakref

import numpy as np

Layout = dict[str, tuple[tuple[int, ...], np.dtype]]  # shape and dtype by name
Batch = dict[str, np.ndarray]

_ALIGNMENT = 4096  # bytes
_lock = threading.Lock()
_worker_index = 0


def set_worker_index(index: int) -> None:
    """Tells a worker process which slots are its own."""
    global _worker_index
    _worker_index = index


class Slots:
    """Memory for some batches per worker; picklable, for workers of the process that made it.

    A worker takes a slot, fills its arrays and sends its number; the parent opens it. The slot is
    free again when nothing refers to any of the opened arrays any more. The memory has no name and
    is freed with the last process that uses it.
    """

    def __init__(self, layout: Layout, workers: int, per_worker: int):
        self._layout, self._workers, self._per_worker = layout, workers, per_worker
        self._slot_size = sum(map(_padded_size, layout.values()))
        file = os.memfd_create("dino_jax batches")
        os.ftruncate(file, self._start(workers * per_worker))
        self._path = f"/proc/{os.getpid()}/fd/{file}"
        self._memory = mmap.mmap(file, 0)
        self._closer = weakref.finalize(self, os.close, file)

    @staticmethod
    def supported() -> bool:
        """Whether the system can share memory without a name."""
        return sys.platform == "linux"

    def take(self) -> tuple[int, Batch] | None:
        """Number and arrays of a free slot of this worker; None if all are in use."""
        first = _worker_index * self._per_worker
        with _lock:
            for slot in range(first, first + self._per_worker):
                if not self._memory[slot]:
                    self._memory[slot] = 1
                    return slot, self._arrays(slot)
        return None

    def open(self, slot: int) -> Batch:
        """The arrays of a slot that a worker has filled; dropping them all frees it."""
        return self._arrays(slot, on_drop=self._release)

    def _release(self, slot: int) -> None:
        self._memory[slot] = 0

    def _arrays(self, slot: int, on_drop=None) -> Batch:
        room = (ctypes.c_uint8 * self._slot_size).from_buffer(self._memory, self._start(slot))
        if on_drop is not None:
            weakref.finalize(room, on_drop, slot)  # every view below refers to it
        arrays, offset = {}, 0
        for name, (shape, dtype) in self._layout.items():
            flat = np.frombuffer(memoryview(room), dtype, math.prod(shape), offset)
            arrays[name] = flat.reshape(shape)
            offset += _padded_size((shape, dtype))
        return arrays

    def _start(self, slot: int) -> int:
        """Byte at which a slot starts, after one byte per slot that says whether it is in use."""
        return _round_up(self._workers * self._per_worker) + slot * self._slot_size

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name not in _NOT_SENT}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        file = os.open(self._path, os.O_RDWR)
        self._memory = mmap.mmap(file, 0)
        os.close(file)


_NOT_SENT = ("_memory", "_closer")


def _round_up(size: int) -> int:
    return (size + _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT


def _padded_size(entry: tuple[tuple[int, ...], np.dtype]) -> int:
    shape, dtype = entry
    return _round_up(math.prod(shape) * dtype.itemsize)
