"""Meshes, the rule that places the state, and whole batches for every device (four CPU devices)."""

import dataclasses
import itertools
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from dino_jax.commands.config_file import load_config
from dino_jax.devices.sharding import (
    batch_sharding,
    check_batch,
    describe_mesh,
    make_mesh,
    make_replicate,
    shard_batch,
    split_slices,
    state_sharding,
)
from dino_jax.step.recipe import build_recipe


@pytest.mark.parametrize("fsdp", [1, 2, 4])
def test_the_mesh_has_all_devices(fsdp):
    mesh = make_mesh(fsdp)
    assert dict(mesh.shape) == {"data": 4 // fsdp, "fsdp": fsdp}
    assert set(mesh.devices.flat) == set(jax.devices())
    assert f"data {4 // fsdp} x fsdp {fsdp} on 4 x cpu" in describe_mesh(mesh)


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a mesh reads of a chip of a v5p slice."""

    id: int
    coords: tuple[int, int, int]
    core_on_chip: int = 0
    process_index: int = 0
    slice_index: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v5"


@pytest.mark.parametrize("fsdp", [1, 2, 4, 8, 16, 32, 64])
def test_every_divisor_is_a_degree_on_a_torus_of_chips(fsdp):
    corners = itertools.product(range(4), repeat=3)
    chips = [Chip(number, coords) for number, coords in enumerate(corners)]
    mesh = make_mesh(fsdp, chips)
    assert dict(mesh.shape) == {"data": 64 // fsdp, "fsdp": fsdp}
    assert set(mesh.devices.flat) == set(chips)


@pytest.mark.parametrize("fsdp", [1, 8, 16])
def test_slices_are_the_outermost_axis_and_each_has_all_of_the_state(fsdp):
    corners = list(itertools.product(range(4), range(2), range(2)))
    chips = [
        Chip(16 * number + place, coords, slice_index=number)
        for place, coords in enumerate(corners)
        for number in (1, 0)
    ]
    mesh = make_mesh(fsdp, chips)
    assert dict(mesh.shape) == {"slice": 2, "data": 16 // fsdp, "fsdp": fsdp}
    for number in range(2):
        assert {chip.slice_index for chip in mesh.devices[number].flat} == {number}
    assert batch_sharding(mesh).spec == P(("slice", "data", "fsdp"))
    assert describe_mesh(mesh).startswith(f"mesh        slice 2 x data {16 // fsdp} x fsdp {fsdp}")
    with pytest.raises(ValueError, match=r"must divide the 16 devices of each of the 2 slices"):
        make_mesh(32, chips)
    with pytest.raises(ValueError, match=r"these have \{0: 16, 1: 15\}"):
        make_mesh(1, [chip for chip in chips if chip.id != 20])


@pytest.mark.parametrize(
    ("text", "sizes"), [("", [8]), ("1", [8]), ("2", [4, 4]), ("4", [2, 2, 2, 2])]
)
def test_devices_that_know_no_slice_are_split_by_processes(text, sizes, monkeypatch):
    monkeypatch.setenv("MEGASCALE_NUM_SLICES", text)
    places = [SimpleNamespace(process_index=i // 2, platform="cpu") for i in range(8)]
    slices = split_slices(places)
    assert [len(each) for each in slices] == sizes
    assert [place for each in slices for place in each] == places


@pytest.mark.parametrize("text", ["3", "0", "two", "-1"])
def test_a_number_of_slices_that_does_not_divide_the_processes_is_named(text, monkeypatch):
    monkeypatch.setenv("MEGASCALE_NUM_SLICES", text)
    with pytest.raises(ValueError, match=r"MEGASCALE_NUM_SLICES .* must divide the 1 processes"):
        make_mesh(1)


@pytest.mark.parametrize("fsdp", [0, 3, 8, -1])
def test_an_fsdp_that_does_not_divide_the_devices_is_an_error(fsdp):
    with pytest.raises(ValueError, match=r"must divide the 4 devices; valid values: \[1, 2, 4\]"):
        make_mesh(fsdp)


def specs(fsdp, **shapes):
    abstract = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    return {k: v.spec for k, v in state_sharding(make_mesh(fsdp), abstract).items()}


def test_without_fsdp_the_state_is_whole_on_every_device():
    assert specs(1, large=(8192, 8192)) == {"large": P()}


def test_large_arrays_are_split_along_their_largest_axis_that_divides_stacked_ones_by_rows():
    found = specs(
        4,
        prototypes=(65536, 256),
        kernel=(12, 384, 1536),
        odd_rows=(12, 383, 1536),
        odd_largest=(1, 197, 384),
        nothing_divides=(101, 103),
        small=(1023, 4),
        scalar=(),
    )
    assert found == {
        "prototypes": P("fsdp"),
        "kernel": P(None, "fsdp"),
        "odd_rows": P(None, None, "fsdp"),
        "odd_largest": P(None, None, "fsdp"),
        "nothing_divides": P(),
        "small": P(),
        "scalar": P(),
    }


def test_a_split_state_takes_a_quarter_of_the_memory():
    mesh = make_mesh(4)
    sharding = state_sharding(mesh, jax.ShapeDtypeStruct((4096, 64), jnp.float32))
    array = jax.device_put(np.ones((4096, 64), np.float32), sharding)
    assert [shard.data.size for shard in array.addressable_shards] == [4096 * 64 // 4] * 4


@pytest.mark.parametrize("fsdp", [1, 2, 4])
def test_the_state_of_a_run_is_made_in_parts_that_shrink_with_the_degree(fsdp):
    config = load_config("configs/quickstart.py")
    config.network.heads.dino.update(out_dim=16384, bottleneck_dim=64)
    init, key = build_recipe(config, 1438).init, jax.random.key(0)
    shardings = state_sharding(make_mesh(fsdp), jax.eval_shape(init, key))
    program = jax.jit(init, out_shardings=shardings).lower(key).compile()
    # Neither in the result nor on the way there is a large array whole on a device.
    shapes = set(re.findall(r"f32\[(\d+,64)\]", program.as_text()))
    assert ("16384,64" in shapes, f"{16384 // fsdp},64" in shapes) == (fsdp == 1, True)
    state = program(jax.random.key(0))
    arrays = jax.tree.leaves(state.replace(rng=None))
    whole = sum(array.nbytes for array in arrays)
    on_first = sum(array.addressable_shards[0].data.nbytes for array in arrays)
    assert 1 / fsdp <= on_first / whole < 1 / fsdp + 0.02  # small arrays are on all devices


@pytest.mark.parametrize("fsdp", [1, 2, 4])
def test_every_device_gets_its_rows_and_replicate_gives_them_back(fsdp):
    mesh = make_mesh(fsdp)
    rows = np.arange(8 * 3).reshape(8, 3)
    batch = shard_batch({"rows": rows}, batch_sharding(mesh))
    for device, shard in enumerate(batch["rows"].addressable_shards):
        assert shard.device == mesh.devices.flat[device]
        np.testing.assert_array_equal(shard.data, rows[2 * device : 2 * device + 2])
    whole = make_replicate(mesh)(batch["rows"])
    assert whole.sharding.is_fully_replicated
    np.testing.assert_array_equal(whole, rows)


def a_batch(size, parts=1, masked=0.0):
    masking = ConfigDict(dict(probability=masked, group_size=6))
    return ConfigDict(dict(batch_size=size, accumulate_steps=parts, masking=masking))


def test_every_device_needs_whole_groups_of_masks():
    mesh = make_mesh(1)
    check_batch(a_batch(32), mesh)
    check_batch(a_batch(24, masked=0.5), mesh)
    with pytest.raises(ValueError, match=r"group_size=2 or --config.batch_size=24"):
        check_batch(a_batch(32, masked=0.5), mesh)


def test_a_batch_that_does_not_divide_names_the_nearest_ones():
    mesh = make_mesh(2)
    check_batch(a_batch(24, 3), mesh)
    with pytest.raises(ValueError, match=r"batch_size=12 or --config.batch_size=24"):
        check_batch(a_batch(23, 3), mesh)
    with pytest.raises(ValueError, match=r"batch_size=4 or --config.batch_size=8"):
        check_batch(a_batch(0, 1), mesh)
    with pytest.raises(ValueError, match="accumulate_steps must be at least 1, got 0"):
        check_batch(a_batch(16, 0), mesh)
