"""Updates and schedules of SimCLR, BYOL and MoCo v3 as their official codes compute them."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.optim.optimizer import make_adamw, make_lars
from dino_jax.optim.schedules import (
    Constant,
    build_cosine,
    build_warmup_cosine,
    scale_learning_rate,
)
from tests.optim.test_optimizer import build, build_with_schedules, make_params

IMAGES, BATCH = 1_281_167, 4096  # of ImageNet-1k


def table(values):
    """A schedule that reads a table."""
    return lambda step: jnp.asarray(values)[step]


def replay(optimizer, first, gradients):
    """The parameters after each step."""
    params = {name: jnp.asarray(value) for name, value in first.items()}
    state, moved = optimizer.init(params), []
    for step, grads in enumerate(gradients):
        updates, state = optimizer.update(grads, state, params, step=jnp.asarray(step))
        params = jax.tree.map(jnp.add, params, updates)
        moved.append(params)
    return moved


def lars(rates, rate="outside", weight_decay=1e-2):
    return make_lars(
        table(rates), Constant(weight_decay), momentum=0.9, trust_coefficient=1e-3, rate=rate
    )


@pytest.mark.parametrize(
    ("rate", "case"), [("in_momentum", "simclr_lr_in_buffer"), ("outside", "moco_byol_lr_outside")]
)
def test_both_conventions_of_lars_equal_the_recorded_steps(golden, rate, case):
    arrays = golden("ssl/s_losses")
    names = ("kernel", "zero_kernel", "bias")
    gradients = [{n: arrays[f"lars/step{i}/grad/{n}"] for n in names} for i in range(6)]
    first = {name: arrays[f"lars/init/{name}"] for name in names}
    for step, params in enumerate(replay(lars(arrays["lars/lr"], rate), first, gradients)):
        for name in names:
            expected = arrays[f"lars/step{step}/{case}/{name}"]
            np.testing.assert_allclose(params[name], expected, rtol=0, atol=1e-6)


def test_lars_of_byol_leaves_biases_and_norms_to_plain_momentum(golden):
    arrays = golden("ssl/b_losses")
    prefix = "lars/init/"
    names = [name.removeprefix(prefix) for name in arrays.files if name.startswith(prefix)]

    def read(place):
        """Haiku's norms are [1, C], ours [C]."""
        tree = {name: arrays[f"{place}/{name}"] for name in names}
        return {n: x.ravel() if n.startswith("batch_norm") else x for n, x in tree.items()}

    gradients = [read(f"lars/step{step}/grad") for step in range(5)]
    moved = replay(lars(arrays["lars/lr"]), read("lars/init"), gradients)
    for step, params in enumerate(moved):
        expected = read(f"lars/step{step}/after")
        for name in names:
            np.testing.assert_allclose(params[name], expected[name], rtol=0, atol=1e-6)


def schedule(peak, warmup, total):
    return build_warmup_cosine(
        peak, 0.0, warmup_epochs=warmup, total_steps=total, steps_per_epoch=1, warmup_peak="after"
    )


@pytest.mark.parametrize(
    ("name", "base", "reference", "scaling"),
    [("linear_0.3", 0.3, 256, "linear"), ("sqrt_0.075", 0.075, 1, "sqrt")],
)
def test_both_scalings_of_simclr_give_the_recorded_rates(golden, name, base, reference, scaling):
    arrays = golden("ssl/s_losses")
    peak = scale_learning_rate(base, BATCH, reference, scaling)
    lr = schedule(peak, round(10 * IMAGES // BATCH), IMAGES * 100 // BATCH + 1)
    expected = arrays[f"lr/{name}_4096_100ep"]
    np.testing.assert_allclose(lr(arrays["lr/steps"]), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("epochs", "lr", "tau"), [(100, 0.45, 0.99), (300, 0.3, 0.99), (1000, 0.2, 0.996)]
)
def test_presets_of_byol_give_the_recorded_rates_and_momenta(golden, epochs, lr, tau):
    arrays, total = golden("ssl/b_losses"), epochs * IMAGES // BATCH
    steps = arrays[f"schedule/{epochs}/step"]
    rates = schedule(lr * BATCH / 256, 10 * IMAGES // BATCH, total)(steps)
    np.testing.assert_allclose(rates, arrays[f"schedule/{epochs}/lr"], rtol=1e-5, atol=1e-6)
    momenta = build_cosine(tau, 1.0, total_steps=total)(steps)
    np.testing.assert_allclose(momenta, arrays[f"schedule/{epochs}/tau"], rtol=1e-6)


def test_rates_and_momenta_of_moco_v3_are_those_of_fractional_epochs():
    path = Path(__file__).parents[1] / "golden/ssl/c_names_init_schedule.json"
    steps = 1000  # of an epoch
    lr = schedule(2.4e-3, 40 * steps, 300 * steps)
    momentum = build_cosine(0.99, 1.0, total_steps=300 * steps)
    for epoch, expected_lr, expected_momentum in json.loads(path.read_text())["epoch_lr_momentum"]:
        step = round(epoch * steps)
        np.testing.assert_allclose(lr(step), expected_lr, rtol=1e-9, atol=1e-18)
        np.testing.assert_allclose(momentum(step), expected_momentum, rtol=1e-12)


def test_a_config_warms_up_from_0_to_the_peak_after_its_warm_up():
    _, rates = build_with_schedules(warmup_peak="after", lr=0.04, min_lr=0.0)
    peak = 0.04 * 64 / 256
    np.testing.assert_allclose(rates["lr"](np.arange(11)), peak * np.arange(11) / 10, rtol=1e-12)


@pytest.mark.parametrize("kind", ["adamw", "sgd", "lars"])
def test_decay_of_all_moves_every_tensor_also_without_a_gradient(kind):
    params = make_params()
    zeros = jax.tree.map(jnp.zeros_like, params)
    for decayed in ("matrices", "all"):
        optimizer = build(
            kind=kind,
            decayed=decayed,
            weight_decay=0.5,
            warmup_epochs=0.0,
            freeze_last_layer_epochs=0.0,
        )
        updates, _ = optimizer.update(zeros, optimizer.init(params), params, step=jnp.asarray(0))
        bias = updates["backbone"]["norm"]["bias"]
        assert bool(np.any(bias)) == (decayed == "all")
        assert np.all(np.asarray(updates["backbone"]["cls_token"]) != 0)


def test_adamw_of_one_group_is_that_of_torch():
    rng = np.random.default_rng(0)
    first = {"kernel": rng.normal(size=(3, 2)), "bias": rng.normal(size=2)}
    gradients = [{n: rng.normal(size=x.shape) for n, x in first.items()} for _ in range(4)]
    rule = make_adamw(Constant(1e-2), Constant(0.1), b1=0.9, b2=0.999, eps=1e-8, decayed="all")
    moved = replay(rule, first, gradients)[-1]
    for name, p in first.items():
        m = v = 0.0
        for step, grads in enumerate(gradients, 1):
            m, v = 0.9 * m + 0.1 * grads[name], 0.999 * v + 0.001 * grads[name] ** 2
            p = p * (1 - 1e-2 * 0.1)
            p = p - 1e-2 * m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        np.testing.assert_allclose(moved[name], p, rtol=1e-5, atol=1e-6)
