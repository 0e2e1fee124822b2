"""Slots of shared memory: arrays keep them, dropping the arrays frees them."""

import pickle

import numpy as np
import pytest

from dino_jax.data import slots as slots_module
from dino_jax.data.slots import Slots, set_worker_index

LAYOUT = {"a": ((3, 5), np.dtype(np.uint8)), "b": ((2, 7000), np.dtype(np.float32))}

pytestmark = pytest.mark.skipif(not Slots.supported(), reason="needs Linux")


def test_what_a_worker_writes_is_what_the_parent_opens():
    parent = Slots(LAYOUT, workers=1, per_worker=2)
    worker = pickle.loads(pickle.dumps(parent))
    expected = {}
    for fill in (1, 2):
        slot, arrays = worker.take()
        for array in arrays.values():
            array[:] = fill
        expected[slot] = fill
    assert sorted(expected) == [0, 1]
    for slot, fill in expected.items():
        opened = parent.open(slot)
        assert {name: (x.shape, x.dtype) for name, x in opened.items()} == LAYOUT
        assert all((array == fill).all() for array in opened.values())


def test_a_slot_is_free_again_when_the_last_of_its_arrays_is_dropped():
    parent = Slots(LAYOUT, workers=1, per_worker=1)
    worker = pickle.loads(pickle.dumps(parent))
    slot, _ = worker.take()
    assert worker.take() is None
    opened = parent.open(slot)
    row = opened["b"][1]
    del opened
    assert worker.take() is None
    del row
    assert worker.take()[0] == slot


def test_arrays_outlive_the_slots():
    parent = Slots(LAYOUT, workers=1, per_worker=1)
    slot, arrays = parent.take()
    arrays["a"][:] = 7
    opened = parent.open(slot)
    del parent, arrays
    assert (opened["a"] == 7).all()


def test_workers_use_different_slots(monkeypatch):
    monkeypatch.setattr(slots_module, "_worker_index", 0)
    parent = Slots(LAYOUT, workers=3, per_worker=2)
    taken = []
    for worker in range(3):
        set_worker_index(worker)
        taken += [parent.take()[0], parent.take()[0]]
        assert parent.take() is None
    assert taken == list(range(6))
