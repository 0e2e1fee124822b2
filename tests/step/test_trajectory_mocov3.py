"""MoCo v3 against the recorded call of the official code and a plain second implementation."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from configs import digits_mocov3
from dino_jax.optim.schedules import Constant
from dino_jax.run.whole_config import read_config
from dino_jax.step.recipe import build_recipe
from dino_jax.step.roles import Averages
from dino_jax.step.train_step import make_loss
from tests.mocov3_names import encoder_to_torch, fill, head_to_torch, part
from tests.models.sketch import assert_gradients_equal, sketch
from tests.plain_mocov3 import PlainMocoV3, below

IMAGES, STEPS = 10, 4
# BatchNorm after a layer without bias takes the bias in front of that layer away again, and AdamW
# makes whole steps of its rounding noise; the running mean moves with it.
WITHOUT_GRADIENT = ("norm.bias", "head.1.running_mean")
MODEL = dict(patch=8, depth=2, heads=3, table_size=4)


@functools.cache
def recipe():
    """The network of the recording; four steps, each an epoch."""
    config = digits_mocov3.get_config()
    config.batch_size, config.steps_per_epoch, config.epochs = IMAGES, 1, float(STEPS)
    config.network.update(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    config.network.backbone.update(
        embed_dim=48, depth=2, num_heads=3, patch_size=8, image_size=(32, 32)
    )
    for head in config.network.heads.values():
        head.update(hidden_dim=64, out_dim=24)
    config.optimizer.update(lr=0.02, warmup_epochs=1.0)  # x 10 / 256: up to 8e-4
    config.roles.teacher.momentum = 0.9
    return build_recipe(read_config(config), 100)


@functools.cache
def first_state():
    return jax.jit(recipe().init)(jax.random.key(0))


def recorded_state(arrays):
    """The state whose next forward pass is the recorded call: the average has moved already."""
    state = first_state()
    base, momentum, predictor = (
        below({k: arrays[k] for k in arrays.files if k.startswith("sd/")}, f"sd/{name}.")
        for name in ("base_encoder", "momentum_encoder", "predictor")
    )
    positions = np.asarray(encoder_to_torch(state.networks["student"])["pos_embed"])
    base["pos_embed"] = momentum["pos_embed"] = positions
    student = fill(state.networks["student"], base, predictor)
    teacher = fill(state.networks["teacher"], momentum)
    follow = Averages("student", Constant(0.97))
    statistics = {"batch_stats": teacher["batch_stats"]}
    moved = follow(teacher, statistics, {"student": student}, jnp.asarray(0))
    return state.replace(networks={"student": student, "teacher": moved})


def test_loss_gradients_and_momentum_encoder_equal_the_official_call(golden):
    arrays = golden("ssl/c_forward_vit")
    state = recorded_state(arrays)
    views = np.stack([arrays["x1_u8"], arrays["x2_u8"]], axis=1).transpose(0, 1, 3, 4, 2)
    parts = recipe()
    loss = make_loss(parts.roles, parts.objectives, [])

    @jax.jit
    def compute(params):
        batch = {"global_crops": jnp.asarray(views)}
        return loss(params, state, {}, batch, jax.random.key(0))

    params = jax.tree.map(jnp.asarray, state.networks["student"]["params"])
    (value, (moved, _)), grads = jax.value_and_grad(compute, has_aux=True)(params)
    np.testing.assert_allclose(value, arrays["loss"], rtol=1e-5)

    ours = {f"base_encoder.{k}": v for k, v in encoder_to_torch({"params": grads}).items()}
    predictor = head_to_torch(part({"params": grads}, "heads_predictor"))
    ours |= {f"predictor.{k}": v for k, v in predictor.items()}
    assert_gradients_equal(ours, arrays, "grad/", atol=1e-4)
    frozen = {"base_encoder.pos_embed"} | {
        f"base_encoder.patch_embed.proj.{name}" for name in ("weight", "bias")
    }
    assert {f"grad/{k}" for k in ours.keys() - frozen} == {
        k for k in arrays.files if k.startswith("grad/")
    }

    teacher = {**state.networks["teacher"], **moved["statistics"]["teacher"]}
    after = {f"momentum_encoder.{k}": v for k, v in encoder_to_torch(teacher).items()}
    for name in (k for k in arrays.files if k.startswith("momentum_after/")):
        value, expected = after[name.removeprefix("momentum_after/")], arrays[name]
        got = value if "running" in name else sketch(value)
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-5, err_msg=name)


def test_queries_and_keys_of_the_official_call_come_out_of_the_plain_implementation(golden):
    arrays = golden("ssl/c_forward_vit")
    state = recorded_state(arrays)
    student, teacher = (state.networks[name] for name in ("student", "teacher"))
    predictor = head_to_torch(part(student, "heads_predictor"))
    plain = PlainMocoV3(
        encoder_to_torch(student), encoder_to_torch(teacher), predictor, MODEL,
        lr=[0.0], weight_decay=0.0, momenta=[1.0], temperature=0.2,
    )  # fmt: skip
    views = [((arrays[x] / 255 - 0.5) / 0.25).astype(np.float32) for x in ("x1_u8", "x2_u8")]
    np.testing.assert_allclose(plain.step(views), arrays["loss"], rtol=1e-5)
    for name, value in zip(("q1", "q2", "k1", "k2"), (*plain.queries, *plain.keys), strict=True):
        np.testing.assert_allclose(value, arrays[name], rtol=0, atol=1e-4)  # of the recording


def draw_views(step):
    return np.random.default_rng(step).normal(size=(IMAGES, 2, 32, 32, 3)).astype(np.float32)


def test_trajectory_equals_a_plain_second_implementation():
    parts, state = recipe(), first_state()
    rng = np.random.default_rng(0)

    def disturb(tensors):
        return {
            name: value
            if name == "pos_embed" or "running" in name
            else (value + 0.1 * rng.normal(size=value.shape)).astype(np.float32)
            for name, value in tensors.items()
        }

    base = disturb(encoder_to_torch(state.networks["student"]))
    predictor = disturb(head_to_torch(part(state.networks["student"], "heads_predictor")))
    student = fill(state.networks["student"], base, predictor)
    teacher = fill(state.networks["teacher"], base)
    state = state.replace(networks={"student": student, "teacher": teacher})
    clock, momentum = np.arange(STEPS + 1), parts.roles["teacher"].follow.momentum
    plain = PlainMocoV3(
        base, base, predictor, MODEL,
        lr=parts.schedules["lr"](clock), weight_decay=0.1, momenta=momentum(clock), temperature=0.2,
    )  # fmt: skip
    step = jax.jit(parts.make_step())
    for index in range(STEPS):
        views = draw_views(index)
        expected = plain.step([np.ascontiguousarray(x.transpose(0, 3, 1, 2)) for x in
                               np.moveaxis(views, 1, 0)])  # fmt: skip
        state, metrics = step(state, {"global_crops": views})
        np.testing.assert_allclose(metrics["loss"], expected, rtol=0, atol=2e-5)
        np.testing.assert_allclose(metrics["teacher_momentum"], plain.momenta[index + 1], rtol=1e-6)
    plain.average(plain.momenta[STEPS])  # officially at the start of the next step
    found = {
        "base": encoder_to_torch(state.networks["student"]),
        "momentum": encoder_to_torch(state.networks["teacher"]),
        "predictor": head_to_torch(part(state.networks["student"], "heads_predictor")),
    }
    for module, ours in found.items():
        theirs = getattr(plain, module)
        assert set(ours) == set(theirs)
        for name, expected in theirs.items():
            actual = ours[name]
            if name in WITHOUT_GRADIENT:
                continue
            if name.endswith("qkv.bias"):  # the keys' third has a true gradient of zero
                actual, expected = (np.delete(x.reshape(3, -1), 1, 0) for x in (actual, expected))
            np.testing.assert_allclose(actual, expected, rtol=0, atol=5e-5, err_msg=name)
    for name in ("pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"):
        np.testing.assert_array_equal(found["base"][name], base[name])


def test_what_moves_is_what_the_official_optimizer_holds():
    path = Path(__file__).parents[1] / "golden/ssl/c_names_init_schedule.json"
    parts, state = recipe(), first_state()
    params = state.networks["student"]["params"]
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = parts.optimizer.update(ones, state.opt_state, params, step=jnp.asarray(1))
    moved = {k for k, v in encoder_to_torch({"params": updates}).items() if np.any(v)}
    predictor = head_to_torch(part({"params": updates}, "heads_predictor"))
    ours = {f"base_encoder.{k}" for k in moved} | {f"predictor.{k}" for k in predictor}
    assert ours == set(json.loads(path.read_text())["trained_vit"])
