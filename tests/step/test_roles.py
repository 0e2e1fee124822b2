"""Methods that no other file knows about: each is a config and, where needed, an objective here.

Every one runs some steps through `build_recipe` on one and on four devices, and continues from a
checkpoint as if it had not stopped.
"""

import dataclasses
import itertools
import json
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import digits_reference
from dino_jax.config.defaults import to_config_dict
from dino_jax.config.section import option
from dino_jax.devices.sharding import (
    batch_sharding,
    jit_step,
    make_mesh,
    state_sharding,
    with_sharding,
)
from dino_jax.models import resnet
from dino_jax.models.layers import l2_normalize
from dino_jax.objectives.base import Needs, Outcome
from dino_jax.objectives.build import OBJECTIVES
from dino_jax.optim.schedules import Constant, Cosine
from dino_jax.step.recipe import build_recipe
from dino_jax.step.roles import Copies, RoleConfig
from dino_jax.workdir import checkpointing
from tests.step.batches import IMAGES, draw_batch

GLOBAL = ("global",)


class Kind:
    """A kind of objective: its config, and its class, which is built from it."""

    def __init__(self, config: type, objective: Any):
        self.Config, self._objective = config, objective

    def build(self, where, config, context):
        return self._objective(config)


@dataclass(frozen=True)
class ContrastConfig:
    kind: str = option("contrast", "images are told apart")
    temperature: float = option(0.2, "of the softmax", above=0)


@dataclass(frozen=True)
class Contrast:
    """The first view of an image finds its second one among those of all images; no teacher."""

    config: ContrastConfig
    weight = Constant(1.0)
    needs = Needs(roles=("student",), groups=GLOBAL, views=2, whole_batch=True, views_apart=True)

    def init(self):
        return {}

    def __call__(self, branches, batch, state, step):
        student = branches["student"]
        one, two = (
            l2_normalize(student.project("projector", view["cls"])) for view in student.features
        )
        logits = one @ two.T / self.config.temperature
        loss = jnp.mean(jax.nn.logsumexp(logits, axis=-1) - jnp.diagonal(logits))
        return Outcome(loss, state, {"loss": loss})


@dataclass(frozen=True)
class PredictConfig:
    kind: str = option("predict", "the student predicts the teacher's projection")


@dataclass(frozen=True)
class Predict:
    """BYOL without the details: a predictor that only the student has."""

    config: PredictConfig
    weight = Constant(1.0)
    needs = Needs(roles=("student", "teacher"), heads=("projector",), groups=GLOBAL, views=2)

    def init(self):
        return {"seen": jnp.zeros((), jnp.int32)}

    def __call__(self, branches, batch, state, step):
        student, teacher = branches["student"], branches["teacher"]
        said = student.project("predictor", student.project("projector", student.cls_tokens()))
        meant = jax.lax.stop_gradient(teacher.project("projector", teacher.cls_tokens()))
        cosine = jnp.sum(l2_normalize(said) * l2_normalize(meant)[:, ::-1], axis=-1)
        loss = 2 - 2 * jnp.mean(cosine)
        return Outcome(loss, {"seen": state["seen"] + 1}, {"loss": loss})


@dataclass(frozen=True)
class GramConfig:
    kind: str = option("gram", "patches are as similar to each other as the anchor's")


@dataclass(frozen=True)
class Gram:
    """Similarities of patches stay those of an anchor; its weight grows."""

    config: GramConfig
    weight = Cosine(0.0, 2.0, 4)
    needs = Needs(roles=("student", "anchor"), groups=GLOBAL, aligned_patches=True)

    def init(self):
        return {}

    def __call__(self, branches, batch, state, step):
        student, anchor = (
            self._similarities(branches[name].of_group("global")) for name in ("student", "anchor")
        )
        loss = jnp.mean(jnp.square(student - jax.lax.stop_gradient(anchor)))
        return Outcome(loss, state, {"loss": loss})

    def _similarities(self, outputs):
        patches = l2_normalize(jnp.stack([view["patches"] for view in outputs.features]))
        return jnp.einsum("vbnd,vbmd->vbnm", patches, patches, precision="highest")


@pytest.fixture(autouse=True)
def methods(monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "contrast", Kind(ContrastConfig, Contrast))
    monkeypatch.setitem(OBJECTIVES, "predict", Kind(PredictConfig, Predict))
    monkeypatch.setitem(OBJECTIVES, "gram", Kind(GramConfig, Gram))


def mlp(of: str) -> dict:
    return dict(
        kind="mlp",
        of=of,
        out_dim=8,
        hidden_dim=12,
        layers=2,
        batch_norm=True,
        hidden_bias=False,
        last_norm="none",
        first_kernels="uniform",
    )


def base() -> ConfigDict:
    """A tiny DINO without local crops and warm-up."""
    config = digits_reference.get_config()
    config.batch_size, config.steps_per_epoch, config.epochs = IMAGES, 2, 4.0
    config.network.backbone.update(embed_dim=12, depth=1, num_heads=2, drop_path_rate=0.0)
    config.network.heads.dino.update(out_dim=16, hidden_dim=8, bottleneck_dim=4, batch_norm=False)
    config.augment.crops.local.count = 0
    config.optimizer.update(warmup_epochs=0.0, freeze_last_layer_epochs=0.0)
    config.optimizer.adamw.eps = 1e-3  # rounding noise does not become steps
    config.roles.teacher.update(momentum=0.5, momentum_end=1.0)
    return config


def contrast() -> ConfigDict:
    """SimCLR's shape on a ResNet: the student alone, each view a batch of BatchNorm."""
    config = base()
    config.network.backbone = to_config_dict(resnet.Config(depths=(1, 1), width=4))
    config.network.heads = ConfigDict(dict(projector=mlp("cls")))
    config.objectives = ConfigDict(dict(pairs=dict(kind="contrast", temperature=0.5)))
    del config.roles.teacher
    config.evaluated = "student"
    return config


def predict() -> ConfigDict:
    config = base()
    config.network.heads = ConfigDict(dict(projector=mlp("cls"), predictor=mlp("projector")))
    config.objectives = ConfigDict(dict(predict={}))
    config.roles.teacher.update(leaves_out=("predictor",), momentum_delay=1)
    return config


def gram() -> ConfigDict:
    config = base()
    config.objectives.gram = ConfigDict(dict(kind="gram"))
    config.roles.anchor = to_config_dict(
        RoleConfig(follow="copies", sees=GLOBAL, of="teacher", every_steps=2)
    )
    return config


METHODS = {"contrast": contrast, "predict": predict, "gram": gram}
STEPS = 4


def start(config: ConfigDict, devices: int) -> tuple[Any, Any, Any, Any]:
    """Recipe, mesh, jitted step and first state."""
    recipe, mesh = build_recipe(config, 100), make_mesh(1, jax.devices()[:devices])
    shardings = state_sharding(mesh, jax.eval_shape(recipe.init, jax.random.key(1)))
    state = jax.jit(recipe.init, out_shardings=shardings)(jax.random.key(1))
    return recipe, mesh, jit_step(recipe.make_step(mesh=mesh), mesh, shardings), state


def on_host(state) -> Any:
    """A state as NumPy, its key as words."""
    return jax.device_get(dataclasses.replace(state, rng=jax.random.key_data(state.rng)))


def take_steps(mesh, step, state, steps) -> tuple[list[Any], list[dict]]:
    """The states, as NumPy, and the metrics after each of the numbered steps."""
    states, logged = [], []
    for index in steps:
        state, metrics = step(state, jax.device_put(draw_batch(index), batch_sharding(mesh)))
        # A program that starts beside a collective one can take the thread that it needs.
        jax.block_until_ready((state, metrics))
        states.append(on_host(state))
        logged.append(jax.device_get(metrics))
    return states, logged


@pytest.fixture(scope="module", params=METHODS)
def run(request):
    """(name, states after 0, 1, … steps, metrics) of a method on one device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OBJECTIVES, "contrast", Kind(ContrastConfig, Contrast))
        patch.setitem(OBJECTIVES, "predict", Kind(PredictConfig, Predict))
        patch.setitem(OBJECTIVES, "gram", Kind(GramConfig, Gram))
        _, mesh, step, state = start(METHODS[request.param](), 1)
        first = on_host(state)
        states, logged = take_steps(mesh, step, state, range(STEPS))
    return request.param, [first, *states], logged


def assert_close(got, wanted, atol):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=atol), got, wanted)


def test_four_devices_equal_one(run):
    name, states, logged = run
    _, mesh, step, state = start(METHODS[name](), 4)
    others, metrics = take_steps(mesh, step, state, range(STEPS))
    for mine, theirs in zip(metrics, logged, strict=True):
        np.testing.assert_allclose(mine["loss"], theirs["loss"], rtol=0, atol=1e-5)
    assert_close(others[-1].networks, states[-1].networks, 5e-5)


def test_a_run_continues_from_its_checkpoint_bit_for_bit(run, tmp_path):
    name, states, _ = run
    recipe, mesh, step, state = start(METHODS[name](), 1)
    abstract = jax.eval_shape(recipe.init, jax.random.key(1))
    shardings = state_sharding(mesh, abstract)
    for index in range(2):
        state, _ = step(state, draw_batch(index))
    checkpoints = checkpointing.open_checkpoints(tmp_path, save_every_steps=2, keep=1)
    checkpointing.save(checkpoints, 2, state)
    checkpointing.close(checkpoints)
    checkpoints = checkpointing.open_checkpoints(tmp_path, save_every_steps=2, keep=1)
    restored, resumed = checkpointing.restore_or_init(
        checkpoints, lambda: None, with_sharding(abstract, shardings)
    )
    checkpointing.close(checkpoints)
    assert resumed
    again, _ = take_steps(mesh, step, restored, range(2, STEPS))
    jax.tree.map(np.testing.assert_array_equal, again[-1], states[-1])
    (tmp_path / "config.json").write_text(json.dumps({"evaluated": recipe.evaluated}))
    evaluated, _ = checkpointing.read_network(tmp_path)
    assert_close(evaluated, states[2].networks[recipe.evaluated], 0)


def modules(state, name) -> set[str]:
    return set(state.networks[name]["params"])


def test_without_a_teacher_there_is_none_anywhere(run):
    name, states, logged = run
    if name != "contrast":
        pytest.skip("of the contrastive method")
    assert set(states[-1].networks) == {"student"}
    assert "teacher_momentum" not in logged[0]
    assert "health/student_teacher_cosine" not in logged[0]
    assert logged[0]["cls_moments"]["mean"].shape == (32,)
    assert all(np.isfinite(metrics["pairs/loss"]) for metrics in logged)
    moved = (state.networks["student"]["params"]["backbone"]["conv1"] for state in states[-2:])
    assert not np.array_equal(*(each["kernel"] for each in moved))


def test_an_average_has_no_predictor_and_reads_its_momentum_one_step_later(run):
    name, states, logged = run
    if name != "predict":
        pytest.skip("of the method with a predictor")
    assert modules(states[0], "student") == {"backbone", "heads_projector", "heads_predictor"}
    assert modules(states[0], "teacher") == {"backbone", "heads_projector"}
    assert set(states[0].networks["teacher"]["batch_stats"]) == {"heads_projector"}
    schedule = Cosine(0.5, 1.0, 8)
    for step, (before, after) in enumerate(itertools.pairwise(states)):
        momentum = float(schedule(step + 1))
        np.testing.assert_allclose(logged[step]["teacher_momentum"], momentum, rtol=1e-6)
        student = after.networks["student"]["params"]
        for module, old in before.networks["teacher"]["params"].items():
            wanted = jax.tree.map(
                lambda new, old, m=momentum: m * old + (1 - m) * new, student[module], old
            )
            assert_close(after.networks["teacher"]["params"][module], wanted, 1e-6)
    assert int(states[-1].objectives["predict"]["seen"]) == STEPS


def test_an_anchor_copies_the_teacher_every_second_step(run):
    name, states, logged = run
    if name != "gram":
        pytest.skip("of the method with an anchor")
    anchors = [state.networks["anchor"]["params"] for state in states]
    teachers = [state.networks["teacher"]["params"] for state in states]
    for step, source in ((1, 0), (2, 2), (3, 2), (4, 4)):
        assert_close(anchors[step], teachers[source], 2e-7)  # XLA may fuse the average twice
    kernel = [t["backbone"]["norm"]["scale"] for t in teachers]
    assert np.abs(kernel[0] - kernel[2]).max() > 1e-5
    schedule = Cosine(0.0, 2.0, 4)
    for step, metrics in enumerate(logged):
        weighted = metrics["dino/loss"] + float(schedule(step)) * metrics["gram/loss"]
        np.testing.assert_allclose(metrics["loss"], weighted, rtol=1e-6)


def test_views_apart_are_batches_of_their_own_for_batch_norm(monkeypatch):
    """Of two views that differ in brightness each is normalised by itself, or both together."""
    batch = draw_batch(0)
    batch["global_crops"][:, 1] += 3.0
    means = {}
    for apart in (True, False):
        monkeypatch.setattr(
            Contrast, "needs", dataclasses.replace(Contrast.needs, views_apart=apart)
        )
        _, _, step, state = start(contrast(), 1)
        stem = state.networks["student"]["params"]["backbone"]["conv1"]["kernel"]
        outputs = [_convolve(batch["global_crops"][:, view], np.asarray(stem)) for view in (0, 1)]
        state, _ = step(state, batch)
        found = state.networks["student"]["batch_stats"]["backbone"]["bn1"]["mean"]
        one, two = (x.mean((0, 1, 2)) for x in outputs)
        means[apart] = np.asarray(found)
        wanted = 0.9 * 0.1 * one + 0.1 * two if apart else 0.1 * (one + two) / 2
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)
    assert not np.allclose(means[True], means[False], rtol=1e-3)


def _convolve(images, kernel):
    """The stem of a ResNet: 7 x 7, stride 2, three pixels of padding."""
    return np.asarray(
        jax.lax.conv_general_dilated(
            images,
            kernel,
            (2, 2),
            ((3, 3), (3, 3)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision="highest",
        )
    )


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        (
            contrast,
            lambda c: c.update(accumulate_steps=2),
            r"objectives.pairs compares all images of a batch .*accumulate_steps \(2\)",
        ),
        (
            contrast,
            lambda c: c.update(evaluated="teacher"),
            r"config.evaluated is 'teacher'; .*\['student'\]",
        ),
        (
            predict,
            lambda c: c.roles.teacher.update(leaves_out=("projector",)),
            r"projector of the network that learns has 8 .*no such head, only \['predictor'\]",
        ),
        (
            predict,
            lambda c: c.roles.teacher.update(leaves_out=("predicto",)),
            r"roles.teacher.leaves_out names \['predicto'\]",
        ),
        (predict, lambda c: c.roles.teacher.update(follow="learns"), "exactly one of config.roles"),
        (predict, lambda c: c.roles.student.update(follow="averages"), "exactly one of config"),
        (
            predict,
            lambda c: c.roles.teacher.update(sees=()),
            "reads the role 'teacher', which sees",
        ),
        (predict, lambda c: c.roles.teacher.update(sees=("gram",)), r"names \['gram'\]; groups of"),
        (gram, lambda c: c.roles.anchor.update(of="anchor"), r"of is 'anchor'; it can copy one of"),
        (gram, lambda c: c.roles.anchor.update(every_steps=0), "every_steps must be at least 1"),
        (gram, lambda c: c.roles.student.update(masked="drop"), "masked='drop' needs a ViT"),
        (
            gram,
            lambda c: c.objectives.dino.update(targets="target"),
            "objectives.dino reads the role 'target', which does not exist",
        ),
    ],
)
def test_what_does_not_fit_together_is_named(method, change, message):
    config = method()
    change(config)
    with pytest.raises(ValueError, match=message):
        build_recipe(config, 100)


def test_objectives_that_disagree_about_batch_norm_are_named():
    config = base()
    config.network.heads.projector = ConfigDict(mlp("cls"))
    config.objectives.pairs = ConfigDict(dict(kind="contrast", temperature=0.5))
    with pytest.raises(ValueError, match=r"\['pairs'\] need .* \['dino'\] all views together"):
        build_recipe(config, 100)


@pytest.mark.parametrize(
    ("every", "first", "most", "due"),
    [
        (3, 0, None, [3, 6, 9, 12]),
        (3, 4, None, [6, 9, 12]),
        (3, 6, 2, [6, 9]),
        (4, 0, 1, [4]),
        (5, 12, 3, []),
        (2, 0, 0, []),
    ],
)
def test_copies_are_due_after_multiples_from_the_first_step_on_and_end(every, first, most, due):
    copies = Copies("teacher", every, first, most)
    finished = jnp.arange(1, 13)
    assert finished[copies.is_due(finished)].tolist() == due
    own, source = {"params": {"backbone": jnp.zeros(2)}}, {"params": {"backbone": jnp.ones(2)}}
    for step in range(12):
        after = copies(own, {}, {"teacher": source}, jnp.asarray(step))
        assert bool(after["params"]["backbone"][0]) == (step + 1 in due)


def test_copies_say_when_they_are_due():
    assert Copies("teacher", 10).describe(99) == "copies teacher every 10 steps"
    assert Copies("teacher", 10, 15, 3).describe(99) == (
        "copies teacher every 10 steps, first after 20, at most 3 times"
    )


def test_a_momentum_may_have_a_schedule_in_parts():
    config = base()
    config.roles.teacher.parts = ConfigDict(
        {"momentum": dict(start=0.9, peak=1.0, end=1.0, warmup_epochs=1.0, cosine_epochs=0.0)}
    )
    recipe = build_recipe(config, 100)
    momentum = recipe.roles["teacher"].follow.momentum
    np.testing.assert_allclose(momentum(0), 0.9)
    np.testing.assert_allclose(momentum(recipe.steps_per_epoch), 1.0)
    config.roles.teacher.parts.momentum.peak = 1.5
    with pytest.raises(ValueError, match=r"teacher\.parts\.momentum\.peak must be in 0 to 1"):
        build_recipe(config, 100)
