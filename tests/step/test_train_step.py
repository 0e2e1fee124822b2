"""Train steps: against a plain second implementation, accumulated, skipped, on other meshes."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from dino_jax.devices.sharding import batch_sharding, make_mesh, state_sharding
from dino_jax.models.dino_head import DinoHead
from dino_jax.models.network import Network
from dino_jax.models.vision_transformer import VisionTransformer
from dino_jax.objectives.centering import Center
from dino_jax.objectives.dino import DinoObjective
from dino_jax.optim.optimizer import make_adamw, make_optimizer
from dino_jax.optim.schedules import Cosine, TeacherTemperature, WarmupCosine
from dino_jax.step.placement import fit_to_mesh
from dino_jax.step.roles import Averages, Learns, Role, fit_roles
from dino_jax.step.train_state import init_train_state
from dino_jax.step.train_step import make_train_step
from dino_jax.weights import from_torch, to_torch
from tests.plain_dino import PlainDino
from tests.quick_compiler import USUAL

STEPS, STEPS_PER_EPOCH, IMAGES, PROTOTYPES = 8, 4, 4, 64
LR = WarmupCosine(2e-3, 1e-5, STEPS, 2)
WEIGHT_DECAY = Cosine(0.04, 0.4, STEPS)
MOMENTUM = Cosine(0.9, 1.0, STEPS)
TEMPERATURE = TeacherTemperature(0.04, 0.07, 2, STEPS_PER_EPOCH)
CLIP = 0.1


@dataclasses.dataclass(frozen=True)
class Parts:
    roles: dict
    objectives: dict
    optimizer: object

    def init(self, key):
        return init_train_state(self.roles, self.objectives, self.optimizer, (32, 32, 3), key)

    def on(self, mesh):
        return dataclasses.replace(
            self, roles=fit_roles(self.roles, partial(fit_to_mesh, mesh=mesh))
        )

    def step(self, **options):
        return make_train_step(self.roles, self.objectives, self.optimizer, **options)


def tiny_parts(
    *, train_gain=False, batch_norm=False, drop_path_rate=0.0, frozen_steps=4, eps=1e-8
) -> Parts:
    vit = VisionTransformer(
        embed_dim=24,
        depth=2,
        num_heads=3,
        patch_size=8,
        image_size=(32, 32),
        drop_path_rate=drop_path_rate,
    )
    head = DinoHead(
        out_dim=PROTOTYPES,
        hidden_dim=32,
        bottleneck_dim=16,
        layers=3,
        batch_norm=batch_norm,
        train_gain=train_gain,
    )
    network = Network(vit, {"dino": head}, (0.5,) * 3, (0.25,) * 3)
    objective = DinoObjective("dino", PROTOTYPES, 0.1, TEMPERATURE, Center(0.9))
    rule = make_adamw(LR, WEIGHT_DECAY, b1=0.9, b2=0.999, eps=eps)
    optimizer = make_optimizer(rule, clip_norm=CLIP, frozen_steps=frozen_steps)
    roles = {
        "student": Role(network, Learns(), ("global", "local"), draws=True),
        "teacher": Role(network, Averages("student", MOMENTUM), ("global",)),
    }
    return Parts(roles, {"dino": objective}, optimizer)


def random_crops(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    return {
        "global_crops": rng.normal(size=(IMAGES, 2, 32, 32, 3)).astype(np.float32),
        "local_crops": rng.normal(size=(IMAGES, 2, 16, 16, 3)).astype(np.float32),
    }


def random_tensors(parts: Parts, train_gain: bool) -> dict[str, np.ndarray]:
    """Official names with values that reach every path."""
    state = jax.jit(parts.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    tensors = {
        name: (value + 0.1 * rng.normal(size=value.shape)).astype(np.float32)
        for name, value in to_torch(state.networks["student"]).items()
    }
    if not train_gain:
        tensors["head.last_layer.weight_g"] = np.ones((PROTOTYPES, 1), np.float32)
    return tensors


@pytest.mark.parametrize("train_gain", [False, True])
def test_trajectory_equals_a_plain_second_implementation(train_gain):
    parts = tiny_parts(train_gain=train_gain)
    tensors = random_tensors(parts, train_gain)
    state = jax.jit(parts.init)(jax.random.key(0))
    variables = from_torch(tensors, state.networks["student"])
    networks = {"student": variables, "teacher": jax.tree.map(np.copy, variables)}
    state = state.replace(networks=networks)
    clock = np.arange(STEPS)
    plain = PlainDino(
        tensors,
        dict(patch=8, depth=2, heads=3, table_size=4),
        lr=LR(clock),
        weight_decay=WEIGHT_DECAY(clock),
        momentum=MOMENTUM(clock),
        temperature=TEMPERATURE(clock),
        clip=CLIP,
        frozen_steps=4,
        train_gain=train_gain,
    )
    step = jax.jit(parts.step())
    for index in range(STEPS):
        batch = random_crops(index)
        crops = [
            np.ascontiguousarray(batch[name][:, view].transpose(0, 3, 1, 2))
            for name in ("global_crops", "local_crops")
            for view in range(batch[name].shape[1])
        ]
        expected = plain.step(crops)
        state, metrics = step(state, batch)
        np.testing.assert_allclose(metrics["loss"], expected, rtol=0, atol=2e-5)
    np.testing.assert_allclose(state.objectives["dino"]["center"], plain.center, rtol=0, atol=1e-6)
    for ours, theirs in (("student", plain.student), ("teacher", plain.teacher)):
        ours = to_torch(state.networks[ours])
        assert set(ours) == set(theirs)
        for name, expected in theirs.items():
            actual = ours[name]
            if name.endswith("qkv.bias"):  # the keys' third has a true gradient of zero
                actual, expected = (np.delete(x.reshape(3, -1), 1, 0) for x in (actual, expected))
            np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("parts_per_update", [2, 4])
def test_accumulation_equals_one_pass(parts_per_update):
    parts = tiny_parts(train_gain=True)
    state = jax.jit(parts.init)(jax.random.key(3))
    whole, split = jax.jit(parts.step()), jax.jit(parts.step(accumulate_steps=parts_per_update))
    a, b = state, state
    for index in range(3):
        a, metrics_a = whole(a, random_crops(index))
        b, metrics_b = split(b, random_crops(index))
        np.testing.assert_allclose(metrics_a["loss"], metrics_b["loss"], rtol=1e-5)
    assert int(b.step) == 3
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=0, atol=2e-5),
        (a.networks["teacher"], a.objectives),
        (b.networks["teacher"], b.objectives),
    )


def test_a_step_that_is_not_finite_moves_nothing_but_the_clock():
    parts = tiny_parts(batch_norm=True)
    step = jax.jit(parts.step())
    state, _ = step(jax.jit(parts.init)(jax.random.key(0)), random_crops(0))
    broken = random_crops(1)
    broken["local_crops"][0, 0, 0, 0, 0] = np.nan
    after = state
    for count in (1, 2):
        after, metrics = step(after, broken)
        assert not np.isfinite(metrics["loss"])
        assert int(metrics["skipped_in_a_row"]) == int(metrics["skipped_steps"]) == count
    assert int(after.step) == 3
    unchanged = ("networks", "opt_state", "objectives")
    jax.tree.map(
        np.testing.assert_array_equal,
        [getattr(after, name) for name in unchanged],
        [getattr(state, name) for name in unchanged],
    )
    healed, metrics = step(after, random_crops(2))
    assert int(metrics["skipped_in_a_row"]) == 0 and int(metrics["skipped_steps"]) == 2
    assert np.isfinite(metrics["loss"])
    assert not np.array_equal(
        healed.objectives["dino"]["center"], state.objectives["dino"]["center"]
    )


def run_on(mesh, batch_norm):
    """Losses and final state of four steps with stochastic depth."""
    # The bias in front of BatchNorm has a true gradient of zero, and Adam with its usual epsilon
    # makes whole steps of the rounding noise.
    parts = tiny_parts(batch_norm=batch_norm, drop_path_rate=0.3, frozen_steps=1, eps=1e-3)
    shardings = state_sharding(mesh, jax.eval_shape(parts.init, jax.random.key(5)))
    state = jax.jit(parts.init, out_shardings=shardings)(jax.random.key(5))
    step = jax.jit(parts.on(mesh).step(), out_shardings=(shardings, None))
    losses = []
    for index in range(4):
        state, metrics = step(state, jax.device_put(random_crops(index), batch_sharding(mesh)))
        losses.append(float(metrics["loss"]))
    return losses, state


@pytest.fixture(scope="module", params=[False, True], ids=["", "batch norm"])
def one_device_run(request):
    return request.param, *run_on(make_mesh(1, jax.devices()[:1]), request.param)


@pytest.mark.parametrize("fsdp", [1, 2, 4])
def test_every_mesh_gives_the_same_run(fsdp, one_device_run):
    batch_norm, losses, state = one_device_run
    other_losses, other = run_on(make_mesh(fsdp), batch_norm)
    np.testing.assert_allclose(other_losses, losses, rtol=0, atol=1e-5)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=0, atol=2e-5),
        (other.networks, other.objectives),
        (state.networks, state.objectives),
    )


def test_fsdp_splits_large_arrays_and_leaves_small_ones_whole():
    mesh = make_mesh(4)
    shapes = {
        "large": jax.ShapeDtypeStruct((3, 256, 1024), "float32"),
        "bias": jax.ShapeDtypeStruct((64,), "float32"),
    }
    shardings = state_sharding(mesh, shapes)
    assert shardings["large"].shard_shape((3, 256, 1024)) == (3, 64, 1024)
    assert shardings["bias"].shard_shape((64,)) == (64,)


def test_teacher_statistics_are_its_own():
    parts = tiny_parts(batch_norm=True)
    state, _ = jax.jit(parts.step())(jax.jit(parts.init)(jax.random.key(0)), random_crops(0))
    student, teacher = (
        state.networks[name]["batch_stats"]["heads_dino"] for name in ("student", "teacher")
    )
    assert not np.allclose(student["norm_0"]["mean"], teacher["norm_0"]["mean"])
    assert not np.allclose(teacher["norm_0"]["mean"], 0)


def test_student_and_teacher_start_equal_in_buffers_of_their_own():
    parts = tiny_parts()
    init = jax.jit(parts.init)
    step = jax.jit(parts.step(), donate_argnums=0)
    state = init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, *state.networks.values())
    state, _ = step(state, random_crops(0))
    assert int(state.step) == 1


def test_uint8_crops_are_normalised_on_the_device():
    parts = tiny_parts()
    state = jax.jit(parts.init)(jax.random.key(0))
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    floats = ((images / 255.0 - 0.5) / 0.25).astype(np.float32)
    a, b = (
        parts.roles["student"].network.apply(state.networks["student"], x)["cls"]
        for x in (images, floats)
    )
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_norms_are_measured_in_logged_steps_only_and_change_nothing():
    parts = tiny_parts()
    steps = (parts.step(), parts.step(is_logged=lambda s: s % 2 == 0))
    # Two programs, which only full optimisation rounds alike.
    always, sometimes = (jax.jit(step, compiler_options=USUAL) for step in steps)
    before = a = b = jax.jit(parts.init)(jax.random.key(0))
    for index in range(2):
        before, (a, metrics_a) = a, always(a, random_crops(index))
        b, metrics_b = sometimes(b, random_crops(index))
        norms = {name: metrics_b.pop(name) for name in list(metrics_b) if name.startswith("norm/")}
        assert len(norms) == 6
        assert all(np.isnan(x) for x in norms.values()) == (index == 0)
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=1e-6),
            metrics_b,
            {name: metrics_a[name] for name in metrics_b},
        )
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=0, atol=1e-6),
        b.networks["student"],
        a.networks["student"],
    )
    for module in ("backbone", "heads_dino"):
        old, new = (
            np.concatenate(
                [x.ravel() for x in jax.tree.leaves(s.networks["student"]["params"][module])]
            )
            for s in (before, a)
        )
        wanted = {"param": np.linalg.norm(old), "update": np.linalg.norm(new - old)}
        for what, value in wanted.items():
            for got in (norms, metrics_a):
                np.testing.assert_allclose(got[f"norm/{module}/{what}"], value, rtol=1e-3)
    squares = [norms[f"norm/{module}/grad"] ** 2 for module in ("backbone", "heads_dino")]
    np.testing.assert_allclose(np.sqrt(sum(squares)), metrics_a["grad_norm"], rtol=1e-5)
