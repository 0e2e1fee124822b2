"""A student that learns from a frozen role: targets, masks that hide nothing, whole runs."""

import json
import shutil
from functools import partial

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from configs import digits_dinov2, digits_distilled, quickstart, vitg14, vits14_distilled
from dino_jax.config.defaults import to_config_dict
from dino_jax.devices.sharding import make_mesh
from dino_jax.models.build import build_network
from dino_jax.run.whole_config import read_config
from dino_jax.step.recipe import build_recipe
from dino_jax.step.roles import RoleConfig
from dino_jax.step.train_state import init_variables
from dino_jax.weights.frozen import open_frozen
from dino_jax.workdir import checkpointing
from dino_jax.workdir.config_json import open_workdir
from tests.run_train import (
    SMALL,
    checkpoint_steps,
    close_state,
    overrides,
    read_metrics,
    read_state,
    run,
    run_processes,
    tolerance,
)

IMAGES, GROUP, K = 8, 4, 32
PIXELS = (32, 32, 3)


def small_heads(config: ConfigDict, **changes) -> None:
    for head in config.network.heads.values():
        head.update(out_dim=K, hidden_dim=16, bottleneck_dim=8, **changes)


def teacher_config() -> ConfigDict:
    """DINOv2 with BatchNorm in the heads, so that its statistics matter."""
    config = digits_dinov2.get_config()
    config.network.backbone.update(embed_dim=48, depth=3)
    small_heads(config, batch_norm=True)
    return config


def student_config() -> ConfigDict:
    config = digits_dinov2.get_config()
    config.batch_size, config.masking.group_size = IMAGES, GROUP
    config.roles.student.masked = "no"
    config.network.backbone.update(
        embed_dim=24, depth=2, registers=0, has_mask_token=False, drop_path_rate=0.0
    )
    small_heads(config, batch_norm=True)
    del config.objectives.koleo
    for name in ("dino", "ibot"):
        config.objectives[name].update(
            centering="center",
            teacher_temperature=0.07,
            warmup_teacher_temperature=0.07,
            targets="frozen_teacher",
        )
    config.roles.frozen_teacher = to_config_dict(RoleConfig(follow="frozen", sees=("global",)))
    config.roles.teacher.sees = ()
    return config


KNN = {"evaluations.knn.every_epochs": 2.0}


@pytest.fixture(scope="module")
def frozen():
    """The teacher's module and variables with statistics that no batch has."""
    network = build_recipe(teacher_config(), 1438).network
    variables = jax.jit(partial(init_variables, network, PIXELS))(jax.random.key(7))
    noise = np.random.default_rng(0)
    return network, jax.tree.map(
        lambda x: x + 0.3 * np.abs(noise.normal(size=x.shape)).astype("f"), variables
    )


def make_batch(recipe, step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    groups = [recipe.masking(0, step, group) for group in range(IMAGES // GROUP)]
    return {
        "global_crops": rng.normal(size=(IMAGES, 2, 32, 32, 3)).astype(np.float32),
        "local_crops": rng.normal(size=(IMAGES, 2, 16, 16, 3)).astype(np.float32),
        **{name: np.concatenate([group[name] for group in groups]) for name in groups[0]},
    }


@pytest.fixture(scope="module")
def stepped(frozen):
    """One step: (recipe, batch, state before, state after, metrics), as NumPy."""
    network, variables = frozen
    recipe = build_recipe(student_config(), 100, {"frozen_teacher": network})
    state = jax.device_get(jax.jit(recipe.init)(jax.random.key(0)))
    batch = make_batch(recipe, 0)
    step = jax.jit(recipe.make_step())
    return recipe, batch, state, *jax.device_get(step(state, batch, {"frozen_teacher": variables}))


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def plain_losses(recipe, frozen, state, batch) -> dict[str, float]:
    """DINO's and iBOT's loss of one step, image by image, from two separate forward passes."""
    network, variables = frozen
    crops, masks = batch["global_crops"], batch["masks"]

    def features(module, weights, images, **options):
        flat = images.reshape(-1, *images.shape[2:])
        return module.apply(weights, flat, **options)

    def logits(module, weights, head, x, **options):
        return module.apply(weights, head, x, method="project", **options)

    seen = features(network, variables, crops)
    told = {
        "dino": logits(network, variables, "dino", seen["cls"]),
        "ibot": logits(network, variables, "ibot", seen["patches"]),
    }
    targets = {name: np.exp(log_softmax(np.asarray(x) / 0.07)) for name, x in told.items()}

    student, own = recipe.roles["student"].network, state.networks["student"]
    by_batch = {"mutable": ["batch_stats"]}
    ours, small = (features(student, own, x) for x in (crops, batch["local_crops"]))

    # One call per head, as BatchNorm sees what comes in one call as one batch; the views of an
    # image come view by view.
    def by_view(x):
        return np.asarray(x).reshape(IMAGES, 2, -1).swapaxes(0, 1)

    cls = np.concatenate([by_view(ours["cls"]), by_view(small["cls"])]).swapaxes(0, 1)
    said, _ = logits(student, own, "dino", cls, **by_batch)
    said = log_softmax(np.asarray(said) / 0.1)  # [B, 4, K]
    theirs = targets["dino"].reshape(IMAGES, 2, K)
    pairs = [
        -(theirs[:, t] * said[:, s]).sum(-1).mean() for t in range(2) for s in range(4) if s != t
    ]

    indices, weights = batch["mask_indices"], batch["mask_weight"]
    patches = np.asarray(ours["patches"]).reshape(IMAGES // GROUP, -1, 24)
    chosen = np.stack([patches[g][indices[g]] for g in range(IMAGES // GROUP)])
    hidden, _ = logits(student, own, "ibot", chosen, **by_batch)
    hidden = log_softmax(np.asarray(hidden) / 0.1)
    per_group = targets["ibot"].reshape(IMAGES // GROUP, -1, K)
    total = 0.0
    for g in range(IMAGES // GROUP):
        for u, index in enumerate(indices[g]):
            total -= weights[g, u] * (per_group[g, index] * hidden[g, u]).sum()
    assert masks.sum() == (weights > 0).sum() > 0
    return {"dino/loss": np.mean(pairs), "ibot/loss": total / (2 * IMAGES)}


def test_the_targets_are_those_of_the_frozen_network_and_the_student_sees_all(frozen, stepped):
    recipe, batch, state, _, metrics = stepped
    for name, value in plain_losses(recipe, frozen, state, batch).items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)


def test_the_teacher_of_the_state_is_the_ema_of_the_student(stepped):
    recipe, _, before, after, _ = stepped
    momentum = float(recipe.roles["teacher"].follow.momentum(0))
    assert momentum < 1
    expected = jax.tree.map(
        lambda old, new: momentum * old + (1 - momentum) * new,
        before.networks["teacher"]["params"],
        after.networks["student"]["params"],
    )
    got = flatten_dict(after.networks["teacher"]["params"])
    for path, value in flatten_dict(expected).items():
        np.testing.assert_allclose(got[path], value, atol=1e-6, err_msg="/".join(path))
    jax.tree.map(
        np.testing.assert_array_equal,
        after.networks["teacher"]["batch_stats"],
        after.networks["student"]["batch_stats"],
    )


def test_masks_that_hide_change_what_the_student_sees(frozen):
    losses = {}
    network, variables = frozen
    for masked in ("no", "hide"):
        config = student_config()
        config.roles.student.masked, config.network.backbone.has_mask_token = masked, True
        recipe = build_recipe(config, 100, {"frozen_teacher": network})
        state = jax.jit(recipe.init)(jax.random.key(0))
        state.networks["student"]["params"]["backbone"]["mask_token"] += 1.0
        frozen_variables = {"frozen_teacher": variables}
        _, metrics = jax.jit(recipe.make_step())(state, make_batch(recipe, 0), frozen_variables)
        losses[masked] = float(metrics["ibot/loss"])
    assert abs(losses["hide"] - losses["no"]) > 1e-3


def test_only_masks_that_hide_need_a_mask_token(frozen):
    config, networks = student_config(), {"frozen_teacher": frozen[0]}
    assert build_recipe(config, 100, networks).masking is not None
    config.roles.student.masked = "hide"
    with pytest.raises(ValueError, match="has_mask_token=True"):
        build_recipe(config, 100, networks)


def test_a_frozen_role_needs_its_network():
    with pytest.raises(
        ValueError, match=r"frozen_teacher is frozen, and its network was not opened"
    ):
        build_recipe(student_config(), 100)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The workdir of a run with checkpoints at steps 2 and 4."""
    folder = tmp_path_factory.mktemp("source")
    config = teacher_config()
    state = jax.jit(build_recipe(config, 1438).init)(jax.random.key(5))
    open_workdir(folder, config)
    checkpoints = checkpointing.open_checkpoints(folder, save_every_steps=2, keep=9)
    for step in (2, 4):
        scaled = jax.tree.map(lambda x, step=step: x * step, state.networks["teacher"])
        checkpointing.save(checkpoints, step, state.replace(networks={"teacher": scaled}))
    checkpointing.close(checkpoints)
    return folder, jax.device_get(state.networks["teacher"])


def distilling(path, **changes) -> ConfigDict:
    config = student_config()
    config.roles.frozen_teacher.path = str(path)
    config.update_from_flattened_dict(changes)
    return config


@pytest.mark.parametrize("fsdp", [1, 4])
def test_the_teacher_of_a_run_comes_onto_the_mesh(source, tmp_path, fsdp):
    for step, factor in ((None, 4), (2, 2)):
        config = distilling(source[0], **({"roles.frozen_teacher.step": step} if step else {}))
        opened = open_frozen(config.roles, str(tmp_path))
        assert f"teacher of step {factor} of {source[0]}, frozen" in opened.lines[0]
        variables = opened.load(make_mesh(fsdp), PIXELS)["frozen_teacher"]
        expected = jax.tree.map(partial(np.multiply, factor), source[1])
        jax.tree.map(np.testing.assert_array_equal, variables, expected)
        kernel = variables["params"]["backbone"]["blocks"]["mlp"]["fc1"]["kernel"]
        assert len({str(shard.index) for shard in kernel.addressable_shards}) == fsdp


def test_a_workdir_stays_with_the_checkpoint_that_it_started_with(source, tmp_path):
    config = distilling(source[0])
    config.roles.frozen_teacher.step = 2  # the newest is 4
    open_workdir(tmp_path, config)
    again = distilling(source[0])
    opened = open_frozen(again.roles, str(tmp_path))
    assert opened.found["frozen_teacher"].step == 2
    assert opened.fill_steps(read_config(again)).roles["frozen_teacher"].step == 2


def test_checkpoint_0_is_not_taken_for_none(source, tmp_path):
    config = distilling(source[0])
    config.roles.frozen_teacher.step = 0
    with pytest.raises(FileNotFoundError, match=r"no checkpoint 0; steps found: \[2, 4\]"):
        open_frozen(config.roles, str(tmp_path))


def test_without_frozen_roles_there_is_nothing_to_open(tmp_path):
    opened = open_frozen(quickstart.get_config().roles, str(tmp_path))
    assert (opened.networks, opened.lines) == ({}, ())
    assert opened.load(make_mesh(1), PIXELS) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"roles.frozen_teacher.path": ""}, r"frozen_teacher\.path is empty"),
        ({"roles.frozen_teacher.path": "dinov2.pth"}, r"frozen_teacher\.path: .*dinov2\.pth"),
        ({"roles.frozen_teacher.path": "/nowhere"}, r"/nowhere.* is not the workdir of a run"),
        ({"roles.frozen_teacher.step": 3}, r"no checkpoint 3; steps found: \[2, 4\]"),
        (
            {"network.heads.dino.out_dim": 64},
            r"learns has 64 outputs, .* frozen frozen_teacher has 32 outputs",
        ),
        (
            {
                **{"data.channels": 1, "network.backbone.in_channels": 1},
                **{"network.mean": (0.5,), "network.std": (0.25,)},
            },
            r"images of 3 channels, the one that learns of 1",
        ),
        (
            {"network.backbone.patch_size": 4},
            r"patches of 8 pixels, the one that learns has patches of 4",
        ),
    ],
)
def test_what_does_not_fit_is_named(source, tmp_path, changes, message):
    config = distilling(source[0], **changes)
    with pytest.raises((ValueError, OSError), match=message):
        opened = open_frozen(config.roles, str(tmp_path))
        build_recipe(config, 100, opened.networks)
        opened.load(make_mesh(1), PIXELS)


def test_a_head_that_the_teacher_has_not_is_named(source, tmp_path):
    config = distilling(source[0])
    config.network.heads.other = ConfigDict(config.network.heads.dino.to_dict())
    config.objectives.dino.head = "other"
    with pytest.raises(ValueError, match=r"no such head, only \['dino', 'ibot'\]"):
        build_recipe(config, 100, open_frozen(config.roles, str(tmp_path)).networks)


@pytest.mark.parametrize(
    ("student", "teacher"), [(digits_distilled, quickstart), (vits14_distilled, vitg14)]
)
def test_the_configs_fit_the_teachers_that_they_name(student, teacher):
    config = student.get_config()
    path = config.roles.frozen_teacher.path
    assert path == f"runs/{teacher.__name__.rpartition('.')[2]}"
    network = build_network(teacher.get_config().network)
    build_recipe(config, 1_281_167, {"frozen_teacher": network})


def test_other_patches_are_fine_without_ibot(source, tmp_path):
    config = distilling(source[0], **{"network.backbone.patch_size": 4})
    del config.objectives.ibot
    networks = open_frozen(config.roles, str(tmp_path)).networks
    assert build_recipe(config, 100, networks).roles["frozen_teacher"].network is not None


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A small teacher and a student on one device: their workdirs."""
    teacher, student = (tmp_path_factory.mktemp(name) for name in ("teacher", "student"))
    code, _, err = run("--config=configs/quickstart.py", f"--workdir={teacher}", *overrides(SMALL))
    assert (code, err) == (0, "")
    code, out, err = run(*student_arguments(teacher, student, **KNN))
    assert (code, err) == (0, "")
    assert f"frozen_teacher the teacher of step 8 of {teacher}, frozen" in out
    return teacher, student


def student_arguments(teacher, workdir, **changes):
    small = SMALL | {"network.backbone.drop_path_rate": 0.0, "network.backbone.embed_dim": 16}
    changes = small | {"roles.frozen_teacher.path": teacher} | changes
    return ["--config=configs/digits_distilled.py", f"--workdir={workdir}", *overrides(changes)]


def test_a_run_measures_its_frozen_teacher_once_and_keeps_the_ema_of_its_student(runs):
    _, student = runs
    lines = read_metrics(student)
    judged = [line["knn10/frozen_teacher"] for line in lines if "knn10/frozen_teacher" in line]
    assert len(judged) == 1 and 0 < judged[0] <= 100
    assert "health/student_teacher_cosine" not in lines[-1]
    assert lines[-1]["health/effective_rank"] > 1
    assert json.loads((student / "config.json").read_text())["roles"]["frozen_teacher"]["step"] == 8
    kept = read_state(student)
    assert kept["teacher/params/backbone/norm/scale"].shape == (16,)


@pytest.mark.parametrize("fsdp", [1, 2])
def test_four_devices_equal_one(runs, tmp_path, fsdp):
    changes = KNN | {"runtime.fsdp": fsdp}
    code, _, err = run(*student_arguments(runs[0], tmp_path, **changes), devices=4)
    assert (code, err) == (0, "")
    check_same(tmp_path, runs[1])


def test_two_processes_equal_one(runs, tmp_path):
    command = student_arguments(runs[0], tmp_path, **KNN)
    first, second = run_processes(*command, processes=2, devices=2)
    assert (first.code, second.code) == (0, 0), (first.err, second.err)
    check_same(tmp_path, runs[1])


def test_a_second_start_goes_on_with_the_same_teacher(runs, tmp_path):
    teacher, student = runs
    shutil.copytree(student, tmp_path, dirs_exist_ok=True)
    for step in checkpoint_steps(tmp_path)[1:]:
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    start = checkpoint_steps(tmp_path)[0]
    code, out, err = run(*student_arguments(teacher, tmp_path, **KNN))
    assert (code, err) == (0, "")
    assert start < 8 and f"resumed at step {start}" in out
    assert read_metrics(tmp_path) == read_metrics(student)
    ours, theirs = read_state(tmp_path), read_state(student)
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


def check_same(workdir, expected) -> None:
    ours, theirs = read_metrics(workdir), read_metrics(expected)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for name, value in other.items():
            np.testing.assert_allclose(mine[name], value, **tolerance(name), err_msg=name)
    close_state(workdir, expected)
