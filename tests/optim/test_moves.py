"""What of the backbone moves: the last blocks and matrices of low rank, against NumPy."""

import jax
import numpy as np
import pytest

from tests.optim.test_optimizer import DEPTH, DIM, build, make_gradients, make_params

QUICK = dict(clip_grad=0.0, warmup_epochs=0.0, min_lr=0.01, weight_decay=0.0, weight_decay_end=0.0)


def steps_of(tx, params, gradients):
    """The parameters after every step, and the last state."""
    state, found = tx.init(params), []
    update = jax.jit(tx.update)
    for step, grads in enumerate(gradients):
        moved, state = update(grads, state, params, step=step)
        params = jax.tree.map(np.add, params, moved)
        found.append(params)
    return found, state


def test_only_the_last_blocks_the_norm_and_the_heads_move_as_if_alone():
    params = make_params()
    gradients = make_gradients(params)[:3]
    whole, _ = steps_of(build(**QUICK), params, gradients)
    last, _ = steps_of(build(**QUICK, moves="blocks", last_blocks=2), params, gradients)
    for key in ("cls_token", "pos_embed", "patch_embed"):
        jax.tree.map(
            np.testing.assert_array_equal, last[-1]["backbone"][key], params["backbone"][key]
        )
    blocks = [one["backbone"]["blocks"] for one in (params, last[-1], whole[-1])]
    for before, after, free in zip(*map(jax.tree.leaves, blocks), strict=True):
        np.testing.assert_array_equal(after[0], before[0])
        np.testing.assert_allclose(after[1:], free[1:], rtol=1e-6)
    for key in ("norm",):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
            last[-1]["backbone"][key],
            whole[-1]["backbone"][key],
        )
    jax.tree.map(np.testing.assert_array_equal, last[-1]["heads_dino"], whole[-1]["heads_dino"])


def test_what_does_not_move_has_no_moments():
    params = make_params()
    count = {
        moves: sum(x.size for x in jax.tree.leaves(tx.init(params)))
        for moves in ("all", "blocks", "lora")
        for tx in [build(**QUICK, moves=moves, lora_rank=1)]
    }
    assert count["lora"] < count["all"] and count["blocks"] < count["all"]


def test_low_rank_steps_follow_from_the_chain_rule():
    """SGD without momentum, in NumPy: dA = s G B', dB = s A' G of the columns of q and v."""
    params = make_params()
    gradients = make_gradients(params)[:4]
    rank, alpha, rate = 2, 4.0, 0.04 * 64 / 256
    tx = build(**QUICK | dict(kind="sgd", sgd={"momentum": 0.0}, freeze_last_layer_epochs=0.0),
               moves="lora", lora_rank=rank, lora_alpha=alpha)  # fmt: skip
    tx_state = tx.init(params)
    drawn = [x for x in jax.tree.leaves(tx_state) if np.shape(x) == (DEPTH, DIM, rank)][:2]
    a = {name: np.float64(x) for name, x in zip(("query", "value"), drawn, strict=True)}
    b = {name: np.zeros((DEPTH, rank, DIM)) for name in a}
    found, _ = steps_of(tx, params, gradients)
    rates = [rate + 0 * step for step in range(4)]
    for grads, lr in zip(gradients, rates, strict=True):
        g = np.float64(grads["backbone"]["blocks"]["attention"]["qkv"]["kernel"])
        for name, place in (("query", 0), ("value", 2)):
            own = alpha / rank * g[:, :, place * DIM : (place + 1) * DIM]
            da, db = own @ b[name].transpose(0, 2, 1), a[name].transpose(0, 2, 1) @ own
            a[name], b[name] = a[name] - lr * da, b[name] - lr * db
    expected = np.float64(params["backbone"]["blocks"]["attention"]["qkv"]["kernel"])
    for name, place in (("query", 0), ("value", 2)):
        expected[:, :, place * DIM : (place + 1) * DIM] += alpha / rank * (a[name] @ b[name])
    got = found[-1]["backbone"]["blocks"]["attention"]["qkv"]["kernel"]
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=1e-5)
    jax.tree.map(
        np.testing.assert_array_equal,
        {k: v for k, v in found[-1]["backbone"].items() if k != "blocks"},
        {k: v for k, v in params["backbone"].items() if k != "blocks"},
    )


def test_the_rate_of_the_backbone_has_a_factor_and_the_heads_keep_theirs():
    params = make_params()
    gradients = make_gradients(params)[:1]
    (plain,), _ = steps_of(build(**QUICK), params, gradients)
    (scaled,), _ = steps_of(build(**QUICK, backbone_lr_multiplier=0.1), params, gradients)
    jax.tree.map(np.testing.assert_array_equal, plain["heads_dino"], scaled["heads_dino"])
    for before, one, other in zip(
        *(jax.tree.leaves(x["backbone"]) for x in (params, plain, scaled)), strict=True
    ):
        np.testing.assert_allclose(other - before, 0.1 * (one - before), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"moves": "blocks", "last_blocks": 9}, "last_blocks is 9; the network has 3 blocks"),
        ({"moves": "lora", "lora_rank": 9}, "a rank of 9 is larger than the width .* 4"),
        ({"moves": "lora", "layer_decay": 0.8}, "layer_decay"),
    ],
)
def test_what_cannot_move_is_said(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes).init(make_params())


@pytest.mark.parametrize("moves", ["blocks", "lora"])
def test_a_network_without_blocks_cannot_move_in_parts(moves):
    params = make_params()
    del params["backbone"]["blocks"]
    with pytest.raises(ValueError, match="needs a ViT"):
        build(moves=moves).init(params)
