"""The optimizers against a NumPy replay over one array per official tensor, layers unstacked."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dino_jax.config.section import section
from dino_jax.optim import optimizer, transforms
from dino_jax.optim.schedules import Constant, build_warmup_cosine
from tests.quick_compiler import USUAL

DEPTH, DIM, STEPS, STEPS_PER_EPOCH, BATCH = 3, 4, 30, 10, 64
# The official rule, spelled out for this tree: biases and 1-D tensors are not decayed.
NOT_DECAYED = ("bias", "norm1/scale", "norm/scale", "norm_0/scale")
# LARS multiplies by its trust coefficient of 0.001, so it needs a larger rate to move.
BASE_LR = {"adamw": 0.04, "sgd": 0.04, "lars": 4.0}
FROZEN = ("heads_dino/last_layer/prototypes", "heads_dino/last_layer/gain")


def build_with_schedules(batch_size=BATCH, **changes):
    given = {"lr": 0.04, "min_lr": 1e-5, "warmup_epochs": 1.0, "clip_grad": 0.3} | changes
    return optimizer.build_optimizer(
        section("config.optimizer", given, optimizer.OptimizerConfig),
        total_steps=STEPS,
        steps_per_epoch=STEPS_PER_EPOCH,
        batch_size=batch_size,
    )


def build(**changes):
    return build_with_schedules(**changes)[0]


def make_params(seed=0):
    """A Linen-like tree: the leaves under "blocks" are stacked over DEPTH layers."""
    rng = np.random.default_rng(seed)
    shapes = {
        "backbone": {
            "cls_token": (1, 1, DIM),
            "pos_embed": (1, 5, DIM),
            "patch_embed": {"kernel": (2, 2, 3, DIM), "bias": (DIM,)},
            "blocks": {
                "norm1": {"scale": (DEPTH, DIM), "bias": (DEPTH, DIM)},
                "attention": {"qkv": {"kernel": (DEPTH, DIM, 12), "bias": (DEPTH, 12)}},
            },
            "norm": {"scale": (DIM,), "bias": (DIM,)},
        },
        "heads_dino": {
            "linear_0": {"kernel": (DIM, 6), "bias": (6,)},
            "norm_0": {"scale": (6,), "bias": (6,)},
            "last_layer": {"prototypes": (8, 6), "gain": (8, 1)},
        },
    }
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.standard_normal(shape), jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def unstack(tree):
    """{"a/b": array} with float64 arrays, stacked leaves split into "0/…", "1/…", …"""
    tensors = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = "/".join(key.key for key in path)
        leaf = np.asarray(leaf, np.float64)
        if name.startswith("backbone/blocks/"):
            tensors |= {f"{layer}/{name}": leaf[layer] for layer in range(DEPTH)}
        else:
            tensors[name] = leaf
    return tensors


def make_gradients(params):
    """One tree per step; layer l of a stack is scaled by 10^(l - 2), so only some layers clip."""

    def gradient(path, leaf, rng):
        noise = rng.standard_normal(leaf.shape)
        if "blocks" in str(path):
            noise *= 10.0 ** (np.arange(DEPTH) - 2).reshape(-1, *[1] * (leaf.ndim - 1))
        return jnp.asarray(0.2 * noise, jnp.float32)

    rngs = [np.random.default_rng(100 + step) for step in range(STEPS)]
    return [
        jax.tree_util.tree_map_with_path(lambda path, leaf, r=rng: gradient(path, leaf, r), params)
        for rng in rngs
    ]


def official_tables(base_lr=0.04):
    peak = base_lr * BATCH / 256
    rest = STEPS - STEPS_PER_EPOCH
    fall = 1e-5 + 0.5 * (peak - 1e-5) * (1 + np.cos(np.pi * np.arange(rest) / rest))
    lr = np.concatenate([np.linspace(0, peak, STEPS_PER_EPOCH), fall])
    decay = 0.4 + 0.5 * (0.04 - 0.4) * (1 + np.cos(np.pi * np.arange(STEPS) / STEPS))
    return lr, decay


def replay_adamw(p, g, memory, lr, decay):
    t, m, v = memory.get("t", 0) + 1, memory.get("m", 0.0), memory.get("v", 0.0)
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    memory.update(t=t, m=m, v=v)
    p = p * (1 - lr * decay)
    return p - lr / (1 - 0.9**t) * m / (np.sqrt(v) / np.sqrt(1 - 0.999**t) + 1e-8)


def replay_sgd(p, g, memory, lr, decay):
    memory["mu"] = 0.9 * memory.get("mu", 0.0) + g + decay * p
    return p - lr * memory["mu"]


def replay_lars(p, g, memory, lr, decay):
    if p.ndim != 1:
        g = g + decay * p
        p_norm, g_norm = np.linalg.norm(p), np.linalg.norm(g)
        g = g * (0.001 * p_norm / g_norm if p_norm > 0 and g_norm > 0 else 1.0)
    memory["mu"] = 0.9 * memory.get("mu", 0.0) + g
    return p - lr * memory["mu"]


REPLAYS = {"adamw": replay_adamw, "sgd": replay_sgd, "lars": replay_lars}


def replay(kind, params, gradients, clip, frozen_steps=STEPS_PER_EPOCH):
    """Yields the tensors after each step."""
    lrs, decays = official_tables(BASE_LR[kind])
    tensors, memory = unstack(params), {}
    for step, gradient in enumerate(gradients):
        for name, g in unstack(gradient).items():
            if clip:
                g = g * min(clip / (np.linalg.norm(g.ravel()) + 1e-6), 1.0)
            if name in FROZEN and step < frozen_steps:
                continue
            decay = 0.0 if name.endswith(NOT_DECAYED) else decays[step]
            tensors[name] = REPLAYS[kind](
                tensors[name], g, memory.setdefault(name, {}), lrs[step], decay
            )
        yield dict(tensors)


def run(tx, params, gradients, first_step=0):
    """Yields (params, optimizer state) after each step, inside jit with a traced step.

    Rounded as users' programs are: the others of tests are without LLVM's fused multiply-adds.
    """

    @functools.partial(jax.jit, compiler_options=USUAL)
    def apply(params, state, grads, step):
        updates, state = tx.update(grads, state, params, step=step)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for step, grads in enumerate(gradients, first_step):
        params, state = apply(params, state, grads, jnp.int32(step))
        yield params, state


@functools.cache
def run_thirty_steps(kind, clip=0.3):
    """The (params, optimizer state) after each of the steps of `make_gradients`."""
    params = make_params()
    tx = build(kind=kind, lr=BASE_LR[kind], clip_grad=clip)
    return list(run(tx, params, make_gradients(params)))


@pytest.mark.parametrize("clip", [0.3, 0.0])
@pytest.mark.parametrize("kind", ["adamw", "sgd", "lars"])
def test_thirty_steps_equal_the_numpy_replay_over_unstacked_tensors(kind, clip):
    params = make_params()
    wanted = replay(kind, params, make_gradients(params), clip)
    for (got, _), want in zip(run_thirty_steps(kind, clip), wanted, strict=True):
        got = unstack(got)
        assert got.keys() == want.keys()
        for name, tensor in want.items():
            np.testing.assert_allclose(got[name], tensor, rtol=1e-6, atol=1e-6, err_msg=name)


def test_the_gradients_of_the_replay_clip_in_some_layers_and_not_in_others():
    norms = [np.linalg.norm(g) for g in unstack(make_gradients(make_params())[0]).values()]
    assert 0.2 < np.mean(np.array(norms) > 0.3) < 0.8


@pytest.mark.parametrize("kind", ["adamw", "sgd", "lars"])
def test_a_frozen_last_layer_does_not_move_a_bit_and_the_rest_does(kind):
    params = make_params()
    steps = run_thirty_steps(kind)
    start = params["heads_dino"]["last_layer"]
    for name in ("prototypes", "gain"):
        for moved, _ in steps[:STEPS_PER_EPOCH]:
            np.testing.assert_array_equal(moved["heads_dino"]["last_layer"][name], start[name])
        after = steps[STEPS_PER_EPOCH][0]["heads_dino"]["last_layer"][name]
        assert np.all(np.asarray(after) != np.asarray(start[name]))
    moved = steps[STEPS_PER_EPOCH - 1][0]["heads_dino"]["linear_0"]["kernel"]
    assert np.all(np.asarray(moved) != np.asarray(params["heads_dino"]["linear_0"]["kernel"]))


def adam_counts(state):
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return sorted(int(leaf) for path, leaf in leaves if str(path[-1]) == ".count")


def test_the_frozen_last_layer_has_its_own_adam_counter():
    *_, (_, state) = run_thirty_steps("adamw")
    assert adam_counts(state) == [20, 30, 30]


def test_without_a_freeze_the_last_layer_counts_as_the_rest():
    params = make_params()
    *_, (_, state) = run(build(freeze_last_layer_epochs=0), params, make_gradients(params))
    assert adam_counts(state) == [30, 30, 30]


def test_a_fractional_freeze_rounds_to_steps():
    params = make_params()
    *_, (_, state) = run(build(freeze_last_layer_epochs=0.25), params, make_gradients(params))
    assert adam_counts(state) == [28, 30, 30]


def test_the_first_step_of_a_warmup_moves_nothing():
    params = make_params()
    first, _ = next(run(build(freeze_last_layer_epochs=0), params, make_gradients(params)))
    jax.tree.map(np.testing.assert_array_equal, first, params)


def test_the_given_step_is_the_only_clock():
    """After a rolled-back step the state is old, but rate, decay and freeze follow the step."""
    params = make_params()
    gradients = make_gradients(params)[:1]
    lrs, decays = official_tables()
    fresh, state = next(run(build(clip_grad=0.0), params, gradients, first_step=17))
    expected = {}
    for name, g in unstack(gradients[0]).items():
        p = unstack(params)[name]
        decay = 0.0 if name.endswith(NOT_DECAYED) else decays[17]
        expected[name] = replay_adamw(p, g, {}, lrs[17], decay)
    for name, tensor in unstack(fresh).items():
        np.testing.assert_allclose(tensor, expected[name], rtol=1e-6, atol=1e-7, err_msg=name)
    assert adam_counts(state) == [1, 1, 1]


def test_an_eager_host_step_gives_the_float32_update_of_a_traced_one():
    params = {"last_layer": {"gain": jnp.ones((2, 1))}, "norm": {"kernel": jnp.ones((2, 2))}}
    grads = jax.tree.map(lambda p: 0.3 * p, params)
    tx = build()
    eager, _ = tx.update(grads, tx.init(params), params, step=12)
    traced, _ = jax.jit(tx.update)(grads, tx.init(params), params, step=jnp.int32(12))
    for got, want in zip(jax.tree.leaves(eager), jax.tree.leaves(traced), strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_an_update_without_the_step_says_how_to_call_it():
    params = {"kernel": jnp.ones((2, 2))}
    tx = build()
    with pytest.raises(TypeError, match=r"update\(grads, state, params, step=step\)"):
        tx.update(params, tx.init(params), params)


def test_lars_leaves_a_tensor_that_is_zero_or_has_no_gradient_unscaled():
    lars = optimizer.make_lars(Constant(0.5), Constant(0.1), momentum=0.9, trust_coefficient=0.001)
    params = {"zero": {"kernel": jnp.zeros((2, 2))}, "still": {"kernel": jnp.full((2, 2), 3.0)}}
    grads = {"zero": {"kernel": jnp.full((2, 2), 0.2)}, "still": {"kernel": jnp.zeros((2, 2))}}
    updates, _ = lars.update(grads, lars.init(params), params, step=jnp.int32(3))
    np.testing.assert_allclose(updates["zero"]["kernel"], -0.5 * 0.2, rtol=1e-6)
    # its gradient is all decay, 0.1 * 3: the trust ratio makes that 0.001 * ||param|| long
    np.testing.assert_allclose(updates["still"]["kernel"], -0.5 * 0.001 * 3.0, rtol=1e-6)
    no_decay = optimizer.make_lars(
        Constant(0.5), Constant(0.0), momentum=0.9, trust_coefficient=0.001
    )
    updates, _ = no_decay.update(grads, no_decay.init(params), params, step=jnp.int32(3))
    np.testing.assert_array_equal(updates["still"]["kernel"], 0.0)


def test_a_skipped_rule_ignores_non_finite_gradients_until_its_first_step():
    params = {"kernel": jnp.ones((2, 2))}
    tx = transforms.skipped_until(optax.trace(0.9), 2)
    bad = {"kernel": jnp.full((2, 2), jnp.nan)}
    updates, state = tx.update(bad, tx.init(params), params, step=jnp.int32(1))
    np.testing.assert_array_equal(updates["kernel"], 0.0)
    updates, _ = tx.update({"kernel": jnp.ones((2, 2))}, state, params, step=jnp.int32(2))
    np.testing.assert_array_equal(updates["kernel"], 1.0)


def replay_v2(params, gradients, clip, layer_decay, patch_embed, frozen_backbone_steps=0):
    """DINOv2: norms per module, rates by layer, a last layer whose rate is 0 in the first epoch.

    A frozen backbone is as if it came into the world at its first step.
    """
    lrs, decays = official_tables()
    factors = {f"{layer}/backbone/blocks": layer_decay ** (DEPTH - layer) for layer in range(DEPTH)}
    factors |= {f"backbone/{x}": layer_decay ** (DEPTH + 1) for x in ("cls_token", "pos_embed")}
    factors["backbone/patch_embed"] = layer_decay ** (DEPTH + 1) * patch_embed
    tensors, memory = unstack(params), {}
    for step, gradient in enumerate(gradients):
        grads = unstack(gradient)
        for module in ("backbone/", "heads_dino/"):
            members = [name for name in grads if module in name]
            norm = np.sqrt(sum(np.sum(grads[name] ** 2) for name in members))
            for name in members:
                grads[name] = grads[name] * min(clip / (norm + 1e-6), 1.0)
        for name, g in grads.items():
            if "backbone" in name and step < frozen_backbone_steps:
                continue
            lr = lrs[step] * next((f for x, f in factors.items() if name.startswith(x)), 1.0)
            lr *= not (name in FROZEN and step < STEPS_PER_EPOCH)
            decay = 0.0 if name.endswith(NOT_DECAYED) else decays[step]
            tensors[name] = replay_adamw(tensors[name], g, memory.setdefault(name, {}), lr, decay)
        yield dict(tensors)


def test_thirty_steps_of_dinov2_equal_the_numpy_replay():
    params = make_params()
    gradients = make_gradients(params)
    rules = dict(clip="module", freeze="zero_lr", clip_grad=1.5)
    tx = build(**rules, layer_decay=0.7, patch_embed_lr_multiplier=0.2)
    wanted = replay_v2(params, gradients, clip=1.5, layer_decay=0.7, patch_embed=0.2)
    for (got, _), want in zip(run(tx, params, gradients), wanted, strict=True):
        got = unstack(got)
        for name, tensor in want.items():
            np.testing.assert_allclose(got[name], tensor, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("freeze", ["zero_lr", "skip"])
def test_heads_warm_up_alone_and_then_the_backbone_starts_as_if_it_were_new(freeze):
    params, frozen = make_params(), 5
    gradients = make_gradients(params)
    rules = dict(clip="module", clip_grad=1.5, freeze_backbone_epochs=0.5, freeze=freeze)
    tx = build(**rules, layer_decay=0.7, patch_embed_lr_multiplier=0.2)
    rates = dict(clip=1.5, layer_decay=0.7, patch_embed=0.2)
    wanted = replay_v2(params, gradients, **rates, frozen_backbone_steps=frozen)
    for step, ((got, _), want) in enumerate(zip(run(tx, params, gradients), wanted, strict=True)):
        if step < frozen:
            jax.tree.map(np.testing.assert_array_equal, got["backbone"], params["backbone"])
        got = unstack(got)
        for name, tensor in want.items():
            if freeze == "zero_lr" or name not in FROZEN:  # the replay is that of DINOv2
                np.testing.assert_allclose(got[name], tensor, rtol=1e-6, atol=1e-6, err_msg=name)


def test_a_frozen_backbone_has_no_moments_even_of_gradients_that_are_not_finite():
    params = make_params()
    grads = make_gradients(params)[:2]
    for gradient in grads:
        gradient["backbone"] = jax.tree.map(lambda g: g * np.nan, gradient["backbone"])
    tx = build(freeze_backbone_epochs=0.2, warmup_epochs=0.0)
    *_, (moved, state) = run(tx, params, grads)
    jax.tree.map(np.testing.assert_array_equal, moved["backbone"], params["backbone"])
    kernel = moved["heads_dino"]["linear_0"]["kernel"]
    assert np.all(np.asarray(kernel) != np.asarray(params["heads_dino"]["linear_0"]["kernel"]))
    moments = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if "backbone" in str(path) and leaf.ndim
    ]
    assert moments
    for leaf in moments:
        np.testing.assert_array_equal(leaf, 0.0)


def test_a_module_is_clipped_as_a_whole_and_heads_each_by_themselves():
    grads = {
        "backbone": {"a": jnp.full((4,), 3.0), "blocks": {"b": jnp.full((2, 2), 4.0)}},
        "heads_dino": {"kernel": jnp.full((1,), 0.5)},
        "heads_ibot": {"kernel": jnp.full((1,), 20.0)},
    }
    clipped, _ = transforms.clip_modules(2.0).update(grads, optax.EmptyState())
    np.testing.assert_allclose(clipped["backbone"]["a"], 3.0 * 2 / 10, rtol=1e-5)  # norm 10
    np.testing.assert_allclose(clipped["backbone"]["blocks"]["b"], 4.0 * 2 / 10, rtol=1e-5)
    np.testing.assert_array_equal(clipped["heads_dino"]["kernel"], 0.5)
    np.testing.assert_allclose(clipped["heads_ibot"]["kernel"], 2.0, rtol=1e-5)


def test_a_last_layer_at_rate_zero_stays_and_its_moments_move():
    params = make_params()
    steps = list(run(build(freeze="zero_lr"), params, make_gradients(params)))
    moved, state = steps[STEPS_PER_EPOCH - 1]
    start = params["heads_dino"]["last_layer"]["prototypes"]
    np.testing.assert_array_equal(moved["heads_dino"]["last_layer"]["prototypes"], start)
    assert adam_counts(state) == [10, 10, 10]
    moved, _ = steps[STEPS_PER_EPOCH]
    assert np.all(np.asarray(moved["heads_dino"]["last_layer"]["prototypes"]) != np.asarray(start))


def test_the_rate_of_a_last_layer_is_the_official_one_of_dinov2(golden):
    recorded = golden("v2/d_schedules")
    lr = build_warmup_cosine(
        0.005656854249492381, 1e-6, warmup_epochs=3, total_steps=120, steps_per_epoch=10
    )
    tx = optimizer.make_optimizer(
        transforms.scale_by_rate(lr), clip_norm=0.0, frozen_steps=10, freeze="zero_lr"
    )
    ones = {"rest": jnp.ones(()), "last_layer": jnp.ones(())}
    state = tx.init(ones)
    rates = jax.vmap(lambda step: tx.update(ones, state, ones, step=step)[0])(jnp.arange(125))
    np.testing.assert_allclose(-rates["rest"], recorded["tiny/lr"], rtol=2e-6, atol=1e-9)
    wanted = recorded["tiny/last_layer_lr"]
    np.testing.assert_allclose(-rates["last_layer"], wanted, rtol=2e-6, atol=1e-9)


def test_the_peak_grows_with_the_square_root_of_the_batch_if_asked():
    _, rates = build_with_schedules(2048, lr=4e-3, lr_scaling="sqrt", reference_batch=1024)
    peak = rates["lr"](STEPS_PER_EPOCH - 1)
    np.testing.assert_allclose(peak, 0.005656854249492381, rtol=1e-12)  # official, recorded


def test_schedules_of_the_config_are_those_the_optimizer_uses():
    _, rates = build_with_schedules()
    lr, decay = official_tables()
    assert rates.keys() == {"lr", "weight_decay"}
    np.testing.assert_allclose(rates["lr"](np.arange(STEPS)), lr, rtol=0, atol=1e-12)
    np.testing.assert_allclose(rates["weight_decay"](np.arange(STEPS)), decay, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "adam"}, "optimizer.kind is 'adam'; did you mean 'adamw'?"),
        ({"clip_grad": -1.0}, "optimizer.clip_grad must be at least 0, got -1"),
        ({"clip": "global"}, "optimizer.clip is 'global'; known: ['module', 'tensor']"),
        ({"freeze": "stop"}, "optimizer.freeze is 'stop'; known: ['skip', 'zero_lr']"),
        ({"layer_decay": 0.0}, "optimizer.layer_decay must be above 0, got 0"),
        ({"patch_embed_lr_multiplier": 0.0}, "patch_embed_lr_multiplier must be above 0, got 0"),
        ({"lr_scaling": "cube"}, "optimizer.lr_scaling is 'cube'; known: ['linear', 'sqrt']"),
        ({"adamw": {"b2": 1.0}}, "optimizer.adamw.b2 must be at least 0 and below 1, got 1"),
        ({"adamw": {"eps": 0.0}}, "optimizer.adamw.eps must be above 0, got 0"),
        ({"sgd": {"momentum": 1.5}}, "sgd.momentum must be at least 0 and below 1, got 1.5"),
        ({"lars": {"trust_coefficient": 0.0}}, "lars.trust_coefficient must be above 0, got 0"),
        ({"freeze_last_layer_epochs": -1}, "last_layer_epochs must be at least 0, got -1"),
        ({"freeze_backbone_epochs": -2}, "freeze_backbone_epochs must be at least 0, got -2"),
        ({"b1": 0.9}, "config.optimizer has no 'b1'"),
        ({"warmup_epochs": 4}, "warmup_epochs (4, 40 steps) is longer than the run (3 epochs"),
    ],
)
def test_values_out_of_range_are_named(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build(**changes)
