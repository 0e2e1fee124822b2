"""Checkpoints: bitwise round trips, other meshes, damaged files, other models, teachers."""

import dataclasses
import logging as python_logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import logging
from etils import epath
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dino_jax.workdir import checkpointing
from dino_jax.workdir.checkpoint_reading import _stored_tree
from dino_jax.workdir.checksums import DamagedCheckpointError, read_checksums

# Orbax leaves coroutines behind when it meets a damaged file; they complain when collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@flax.struct.dataclass
class State:
    """The fields of TrainState, without its module."""

    step: Any
    networks: Any
    opt_state: Any
    objectives: Any
    rng: Any
    skipped: Any


def mesh(devices: int) -> jax.sharding.Mesh:
    return jax.make_mesh(
        (devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )


def init_state(step: int = 0, width: int = 256) -> State:
    """A state with every kind of leaf; the kernel is too large to be inlined into Orbax's index."""
    key = jax.random.fold_in(jax.random.key(1), step)
    params = {"kernel": jax.random.normal(key, (16, width)), "bias": jnp.full(3, step, jnp.float32)}
    labels = {"kernel": "decay", "bias": "plain"}
    optimizer = optax.partition({"decay": optax.adamw(1e-3), "plain": optax.sgd(0.1, 0.9)}, labels)
    opt_state = optimizer.update(params, optimizer.init(params), params)[1]
    return State(
        step=jnp.int32(step),
        networks={
            "student": {"params": params},
            "teacher": {"params": jax.tree.map(lambda x: x * 0.5, params)},
        },
        opt_state=opt_state,
        objectives={"dino": {"center": jnp.arange(8.0) / 3}, "koleo": {}},
        rng=jax.random.key(7),
        skipped={"total": jnp.int32(2), "in_a_row": jnp.int32(0)},
    )


def sharded(tree: Any, devices: int) -> Any:
    """Abstract `tree` whose kernels are split along their first axis over so many devices."""

    def spec(x):
        rows = len(x.shape) == 2 and x.shape[0] == 16
        axes = PartitionSpec("data") if rows else PartitionSpec()
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh(devices), axes))

    return jax.tree.map(spec, tree)


def abstract_state(devices: int = 1, width: int = 256) -> State:
    return sharded(jax.eval_shape(lambda: init_state(width=width)), devices)


def place(state: State, devices: int) -> State:
    return jax.tree.map(lambda x, a: jax.device_put(x, a.sharding), state, sharded(state, devices))


def assert_bitwise_equal(got: Any, expected: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert x.dtype == y.dtype
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def open_run(workdir: Path, keep: int = 3):
    return checkpointing.open_checkpoints(workdir, save_every_steps=2, keep=keep)


def write_run(workdir: Path, steps: int = 4, keep: int = 3) -> None:
    """Runs "training" of so many steps, with a save offered after each."""
    manager = open_run(workdir, keep)
    for step in range(1, steps + 1):
        checkpointing.save(manager, step, init_state(step))
    checkpointing.close(manager)


@dataclasses.dataclass
class Kept:
    step: int | None = None


def test_keep_also_stays_until_its_step_changes(tmp_path):
    kept_too = Kept()
    options = dict(save_every_steps=1, keep=2, keep_also=kept_too)
    manager = checkpointing.open_checkpoints(tmp_path, **options)
    kept = []
    for step in range(1, 8):
        kept_too.step = {1: None, 2: 2, 6: 6}.get(step, kept_too.step)
        checkpointing.save(manager, step, init_state(step))
        manager.wait_until_finished()
        kept.append(sorted(manager.all_steps()))
    checkpointing.close(manager)
    assert kept == [[1], [1, 2], [2, 3], [2, 3, 4], [2, 4, 5], [5, 6], [6, 7]]


def restore(workdir: Path, abstract: Any = None) -> tuple[Any, bool]:
    manager = open_run(workdir)
    try:
        return checkpointing.restore_or_init(
            manager, init_state, abstract_state() if abstract is None else abstract
        )
    finally:
        checkpointing.close(manager)


@pytest.fixture
def warnings(caplog):
    """What was logged at level WARNING, as one text."""
    logger = logging.get_absl_logger()
    logger.addHandler(caplog.handler)
    caplog.set_level(python_logging.WARNING, logger="absl")
    yield lambda: caplog.text
    logger.removeHandler(caplog.handler)


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory) -> Path:
    """A workdir with the checkpoints 2 and 4; tests copy it before they damage it."""
    workdir = tmp_path_factory.mktemp("run")
    write_run(workdir)
    return workdir


@pytest.fixture
def run(two_checkpoints, tmp_path) -> Path:
    return shutil.copytree(two_checkpoints, tmp_path / "run")


def test_restored_state_is_bitwise_the_saved_one(two_checkpoints):
    state, resumed = restore(two_checkpoints)
    assert resumed
    assert_bitwise_equal(state, init_state(4))


def test_a_restored_key_draws_the_same_numbers(two_checkpoints):
    state, _ = restore(two_checkpoints)
    np.testing.assert_array_equal(
        jax.random.normal(state.rng, (5,)), jax.random.normal(jax.random.key(7), (5,))
    )


def test_an_empty_workdir_starts_from_init(tmp_path):
    state, resumed = restore(tmp_path)
    assert not resumed
    assert_bitwise_equal(state, init_state(0))


@pytest.mark.parametrize(("saved_on", "restored_on"), [(4, 1), (1, 4), (4, 2)])
def test_a_checkpoint_restores_onto_another_mesh(tmp_path, saved_on, restored_on):
    manager = open_run(tmp_path)
    checkpointing.save(manager, 2, place(init_state(2), saved_on))
    checkpointing.close(manager)
    state, _ = restore(tmp_path, abstract_state(restored_on))
    kernel = state.networks["student"]["params"]["kernel"]
    assert kernel.sharding == NamedSharding(mesh(restored_on), PartitionSpec("data"))
    assert len(kernel.addressable_shards) == restored_on
    assert_bitwise_equal(state, init_state(2))


def test_saves_happen_at_multiples_only_and_not_at_step_one(tmp_path):
    manager = open_run(tmp_path, keep=9)
    started = [checkpointing.save(manager, step, init_state(step)) for step in range(1, 6)]
    checkpointing.close(manager)
    assert started == [False, True, False, True, False]


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    write_run(tmp_path, steps=8, keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["6", "8"]


def test_the_newest_checkpoint_of_a_longer_interval_stays_too(tmp_path):
    manager = checkpointing.open_checkpoints(
        tmp_path, save_every_steps=2, keep=1, keep_last_of_every=4
    )
    for step in range(1, 11):
        checkpointing.save(manager, step, init_state(step))
    checkpointing.close(manager)
    assert checkpointing.checkpoint_steps(tmp_path) == [10, 8]


def test_a_removed_checkpoint_is_gone_and_the_one_before_is_the_newest(run):
    (run / ".removed.4").mkdir()  # left behind by a crash
    checkpointing.remove_checkpoint(run, 4)
    assert checkpointing.checkpoint_steps(run) == [2]
    assert not (run / ".removed.4").exists()
    assert_bitwise_equal(restore(run)[0], init_state(2))


def test_a_run_without_checkpoints_has_no_steps(tmp_path):
    assert checkpointing.checkpoint_steps(tmp_path / "nothing") == []


def test_the_teacher_of_any_network_is_read_as_numpy_arrays(run):
    teacher, step = checkpointing.read_network(run, step=2)
    assert step == 2
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(teacher))
    assert_bitwise_equal(teacher, jax.device_get(init_state(2).networks["teacher"]))
    assert checkpointing.read_network(run / "checkpoints")[1] == 4


def test_networks_lie_on_disk_as_in_version_0_1_and_other_roles_beside_them(tmp_path):
    state = init_state(2)
    manager = open_run(tmp_path)
    checkpointing.save(manager, 2, state)
    anchor = {"params": {"kernel": jnp.full((16, 256), 3.0)}}
    more = init_state(4).replace(networks={"student": state.networks["student"], "anchor": anchor})
    checkpointing.save(manager, 4, more)
    checkpointing.close(manager)
    fields = {"step", "student", "teacher", "opt_state", "objectives", "rng", "skipped"}
    trees = {step: _stored_tree(tmp_path / f"checkpoints/{step}/state") for step in (2, 4)}
    assert set(trees[2]) == fields
    assert set(trees[4]) == fields - {"teacher"} | {"others"} and set(trees[4]["others"]) == {
        "anchor"
    }
    restored, _ = restore(tmp_path, sharded(jax.eval_shape(lambda: more), 1))
    assert_bitwise_equal(restored, more)
    loaded = checkpointing.load_network(
        tmp_path, sharded(jax.eval_shape(lambda: anchor), 1), role="anchor"
    )
    assert_bitwise_equal(loaded, anchor)


def test_the_evaluated_network_is_the_one_that_is_read(run):
    (run / "config.json").write_text('{"evaluated": "student"}')
    variables, _ = checkpointing.read_network(run, 2)
    assert_bitwise_equal(variables, jax.device_get(init_state(2).networks["student"]))
    with pytest.raises(ValueError, match="has no role 'anchor'"):
        checkpointing.read_network(run, 2, "anchor")


def test_a_forced_save_writes_an_odd_step_and_never_the_same_step_twice(tmp_path):
    manager = open_run(tmp_path)
    assert checkpointing.save(manager, 2, init_state(2))
    assert not checkpointing.save(manager, 2, init_state(2), force=True)  # still being written
    assert checkpointing.save(manager, 3, init_state(3), force=True)
    checkpointing.close(manager)
    reopened = open_run(tmp_path)
    assert not checkpointing.save(reopened, 3, init_state(3), force=True)
    checkpointing.close(reopened)
    assert_bitwise_equal(restore(tmp_path)[0], init_state(3))


def test_donating_the_state_right_after_save_does_not_change_what_is_saved(tmp_path):
    overwrite = jax.jit(
        lambda s: s.replace(networks=jax.tree.map(lambda x: x * 0 - 1, s.networks)),
        donate_argnums=0,
    )
    state = jax.jit(init_state, static_argnums=(0, 1))(2, 1 << 16)
    expected = jax.tree.map(lambda x: np.array(x), state.networks)
    manager = open_run(tmp_path)
    checkpointing.save(manager, 2, state)
    jax.block_until_ready(overwrite(state))
    checkpointing.close(manager)
    restored, _ = restore(tmp_path, abstract_state(width=1 << 16))
    assert_bitwise_equal(restored.networks, expected)


def largest_chunk(checkpoint: Path) -> Path:
    return max(checkpoint.rglob("*process_0/d/*"), key=lambda p: p.stat().st_size)


DAMAGE = {
    "an empty index": lambda c: (c / "state/manifest.ocdbt").write_bytes(b""),
    "no index": lambda c: (c / "state/manifest.ocdbt").unlink(),
    "a torn tree description": lambda c: (c / "state/_METADATA").write_text('{"tree_meta'),
    "no tree description": lambda c: (c / "state/_METADATA").unlink(),
    "an empty chunk": lambda c: largest_chunk(c).write_bytes(b""),
    "a torn chunk": lambda c: largest_chunk(c).write_bytes(largest_chunk(c).read_bytes()[:100]),
    "no chunks": lambda c: shutil.rmtree(c / "state/ocdbt.process_0"),
    "no state": lambda c: shutil.rmtree(c / "state"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_and_says_so(run, kind, warnings):
    DAMAGE[kind](run / "checkpoints/4")
    state, resumed = restore(run)
    assert resumed
    assert_bitwise_equal(state, init_state(2))
    assert "CHECKPOINT 4" in warnings()
    assert "CANNOT BE READ" in warnings()
    assert "CONTINUING FROM CHECKPOINT 2" in warnings()


def corrupt(workdir: Path, step: int, change) -> None:
    """Saves a changed state under the checksums of the one that was saved."""
    sums = (workdir / f"checkpoints/{step}/checksums/metadata").read_bytes()
    shutil.rmtree(workdir / f"checkpoints/{step}")
    manager = open_run(workdir)
    with mock.patch.object(checkpointing, "compute_checksums", lambda tree: {}):
        checkpointing.save(manager, step, change(init_state(step)), force=True)
    checkpointing.close(manager)
    (workdir / f"checkpoints/{step}/checksums/metadata").write_bytes(sums)


def with_kernel(state: State, kernel: Any) -> State:
    teacher = {"params": {**state.networks["teacher"]["params"], "kernel": kernel}}
    return state.replace(networks={**state.networks, "teacher": teacher})


def lowest_bit_flipped(state: State) -> State:
    kernel = np.array(state.networks["teacher"]["params"]["kernel"])
    kernel.view(np.uint32)[7, 9] ^= 1
    return with_kernel(state, jnp.asarray(kernel))


def one_nan(state: State) -> State:
    kernel = state.networks["teacher"]["params"]["kernel"]
    return with_kernel(state, kernel.at[3, 2].set(jnp.nan))


@pytest.mark.parametrize("devices", [1, 4])
def test_one_other_bit_in_an_array_is_named_on_any_mesh_and_never_restored(run, devices, warnings):
    corrupt(run, 4, lowest_bit_flipped)
    teacher = checkpointing.load_network(run, abstract_state(devices).networks["teacher"])
    assert_bitwise_equal(teacher, init_state(2).networks["teacher"])
    state, _ = restore(run, abstract_state(devices))
    assert_bitwise_equal(state, init_state(2))
    assert (
        f"CHECKPOINT 4 in {run}/checkpoints CANNOT BE READ: damaged: teacher/params/" in warnings()
    )
    assert "damaged: teacher/params/kernel (checksum " in warnings()
    assert "student" not in warnings()


def test_damage_outside_of_a_network_does_not_keep_it_from_being_read(run, warnings):
    corrupt(run, 4, lowest_bit_flipped)
    student, step = checkpointing.read_network(run, role="student")
    assert step == 4 and warnings() == ""
    assert_bitwise_equal(student, jax.device_get(init_state(4).networks["student"]))


def test_damaged_checksums_are_damage_and_a_chosen_step_that_is_damaged_is_an_error(run):
    (run / "checkpoints/4/checksums/metadata").write_text('{"step": 3}')
    with pytest.raises(OSError, match=r"none of the checkpoints(.|\n)* 4: (.|\n)*is damaged"):
        checkpointing.read_network(run, step=4)
    assert checkpointing.read_network(run)[1] == 2


def test_checksums_that_are_a_pipe_are_damage_and_nobody_waits_for_it(tmp_path):
    (tmp_path / "checksums").mkdir()
    os.mkfifo(tmp_path / "checksums/metadata")
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(read_checksums, epath.Path(tmp_path))
        try:
            with pytest.raises(DamagedCheckpointError, match="is a pipe, not a file"):
                found.result(timeout=30)
        finally:  # so that a thread that waits for a writer ends
            os.close(os.open(tmp_path / "checksums/metadata", os.O_RDWR | os.O_NONBLOCK))


def test_a_checkpoint_without_checksums_is_restored_and_said_to_be_unverified(run, warnings):
    shutil.rmtree(run / "checkpoints/4/checksums")
    assert_bitwise_equal(restore(run)[0], init_state(4))
    (line,) = set(warnings().splitlines())
    assert "it is not verified" in line


def test_a_state_that_is_not_finite_is_neither_saved_nor_restored(run, warnings):
    manager = open_run(run)
    with pytest.raises(ValueError, match="step 6 is not finite: teacher/params/kernel"):
        checkpointing.save(manager, 6, one_nan(init_state(6)))
    checkpointing.close(manager)
    corrupt(run, 4, one_nan)
    shutil.rmtree(run / "checkpoints/4/checksums")  # as version 0.1 would have saved it
    assert_bitwise_equal(restore(run)[0], init_state(2))
    assert "not finite: teacher/params/kernel" in warnings()


def test_single_flipped_bits_in_all_files_are_noticed_or_harmless(tmp_path):
    from tests.flipped_bits import count_outcomes

    said = []
    outcomes = count_outcomes(10, seed=1, folder=tmp_path, say=said.append)
    assert outcomes["silent"] == 0, said
    assert outcomes["noticed"] and outcomes["harmless"]


def test_the_step_of_a_damaged_checkpoint_can_be_saved_again(run):
    DAMAGE["a torn chunk"](run / "checkpoints/4")
    restore(run)
    assert (run / "checkpoints_unreadable/4/state").is_dir()
    manager = open_run(run)
    assert checkpointing.save(manager, 4, init_state(4))
    checkpointing.close(manager)
    assert_bitwise_equal(restore(run)[0], init_state(4))


def test_a_half_written_checkpoint_is_ignored_and_cleared(run):
    unfinished = run / "checkpoints/6.orbax-checkpoint-tmp-1"
    shutil.copytree(run / "checkpoints/4", unfinished)
    state, _ = restore(run)
    assert_bitwise_equal(state, init_state(4))
    assert not unfinished.exists()


def test_a_run_never_starts_from_scratch_over_unreadable_checkpoints(run):
    for step in (2, 4):
        DAMAGE["no index"](run / f"checkpoints/{step}")
    with pytest.raises(OSError, match=r"none of the checkpoints(.|\n)*  4: (.|\n)*  2: "):
        restore(run)
    assert (run / "checkpoints/4").is_dir()
    assert not (run / "checkpoints_unreadable").exists()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda s: abstract_state(width=64),
            r"student/params/kernel: checkpoint has float32\[16, 256\], this run has .*\[16, 64\]",
        ),
        (
            lambda s: s.replace(skipped={**s.skipped, "new": s.step}),
            r"skipped/new: checkpoint has nothing, this run has int32\[\]",
        ),
        (
            lambda s: s.replace(skipped={"total": s.step}),
            r"skipped/in_a_row: checkpoint has int32\[\], this run has nothing",
        ),
        (
            lambda s: s.replace(objectives={"dino": s.objectives["dino"], "gram": {}}),
            r"objectives/gram: checkpoint has nothing, this run has empty",
        ),
        (
            lambda s: s.replace(
                step=jax.ShapeDtypeStruct((), jnp.float32, sharding=s.step.sharding)
            ),
            r"  step: checkpoint has int32\[\], this run has float32\[\]",
        ),
        (
            lambda s: s.replace(opt_state=s.networks["student"]),
            r"opt_state/params/bias: checkpoint has nothing, this run has float32\[3\]",
        ),
    ],
)
def test_a_checkpoint_of_another_model_is_an_error_and_not_a_damaged_one(
    two_checkpoints, change, line
):
    with pytest.raises(ValueError, match=line):
        restore(two_checkpoints, change(abstract_state()))
    assert (two_checkpoints / "checkpoints/4").is_dir()


@pytest.mark.parametrize("where", [".", "checkpoints"])
def test_the_teacher_loads_alone_onto_any_mesh(two_checkpoints, where):
    teacher = checkpointing.load_network(
        two_checkpoints / where, abstract_state(4).networks["teacher"]
    )
    assert_bitwise_equal(teacher, init_state(4).networks["teacher"])
    assert len(teacher["params"]["kernel"].addressable_shards) == 4


def test_the_teacher_of_a_chosen_step_loads_from_an_open_manager(two_checkpoints):
    manager = open_run(two_checkpoints)
    teacher = checkpointing.load_network(manager, abstract_state().networks["teacher"], step=2)
    checkpointing.close(manager)
    assert_bitwise_equal(teacher, init_state(2).networks["teacher"])


def test_loading_the_teacher_falls_back_loudly_and_changes_nothing(run, warnings):
    DAMAGE["no index"](run / "checkpoints/4")
    teacher = checkpointing.load_network(run, abstract_state().networks["teacher"])
    assert_bitwise_equal(teacher, init_state(2).networks["teacher"])
    assert "CHECKPOINT 4" in warnings()
    assert (run / "checkpoints/4").is_dir()


def test_a_teacher_of_another_model_is_a_clear_error(two_checkpoints):
    with pytest.raises(ValueError, match=r"params/kernel: checkpoint has float32\[16, 256\]"):
        checkpointing.load_network(two_checkpoints, abstract_state(width=64).networks["teacher"])


@pytest.mark.parametrize("step", [None, 3])
def test_a_missing_checkpoint_is_a_clear_error(tmp_path, step):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint.*steps found: \[\]"):
        checkpointing.load_network(tmp_path, abstract_state().networks["teacher"], step=step)


@pytest.mark.parametrize("wrong", [{"save_every_steps": 0}, {"keep": 0}])
def test_impossible_intervals_are_clear_errors(tmp_path, wrong):
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        checkpointing.open_checkpoints(tmp_path, **{"save_every_steps": 1, "keep": 1, **wrong})
