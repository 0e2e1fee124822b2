"""Where the devices of a torus scatter in stages."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from dino_jax.devices.kernels.shared_weights import SharedWeights, ring_of


def mesh_of(places, data=1):
    devices = np.array([SimpleNamespace(coords=place) for place in places], object)
    shape = {"data": data, "fsdp": len(places) // data}
    return SimpleNamespace(devices=devices.reshape(data, -1), shape=shape)


def torus(*sides):
    return list(itertools.product(*map(range, sides)))


@pytest.mark.parametrize(
    ("places", "ring"),
    [
        (torus(4, 4), 4),
        (torus(2, 4), 4),
        (torus(4, 4, 8), 8),
        (torus(8), 0),  # one ring is all there is
        (torus(1), 0),
        ([(0, 0), (0, 1), (1, 1), (1, 0)], 0),  # across it would be a diagonal
        ([(0, 0), (0, 1), (1, 0)], 0),
    ],
)
def test_neighbours_on_one_line_of_the_torus_are_a_ring(places, ring):
    assert ring_of(mesh_of(places)) == ring


def test_what_is_split_over_a_part_of_the_slice_is_scattered_at_once():
    assert ring_of(mesh_of(torus(4, 4), data=2)) == 0


def test_devices_that_are_nowhere_have_no_ring():
    devices = np.array([[SimpleNamespace(), SimpleNamespace()]], object)
    assert ring_of(SimpleNamespace(devices=devices, shape={"data": 1, "fsdp": 2})) == 0


def test_every_device_meets_every_other_one_once():
    weights = SharedWeights(mesh_of(torus(2, 4)), ring=4)
    across, along = weights._stages()
    assert across == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert along == [[0, 1, 2, 3], [4, 5, 6, 7]]
