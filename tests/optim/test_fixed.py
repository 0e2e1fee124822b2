"""Parameters that `config.optimizer.fixed` names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.optim.test_optimizer import build, make_params


def move(optimizer, params, gradients, steps=3):
    state = optimizer.init(params)
    for step in range(steps):
        updates, state = optimizer.update(gradients, state, params, step=jnp.asarray(step))
        params = jax.tree.map(jnp.add, params, updates)
    return params


@pytest.mark.parametrize("kind", ["adamw", "sgd", "lars"])
def test_fixed_parameters_do_not_move_a_bit_and_count_in_no_norm(kind):
    params = make_params()
    gradients = jax.tree.map(lambda x: x + 1.0, params)
    spiked = jax.tree.map(lambda x: x, gradients)
    spiked["backbone"]["patch_embed"] = jax.tree.map(
        lambda x: 1e6 * x, gradients["backbone"]["patch_embed"]
    )
    options = dict(kind=kind, clip="module", weight_decay=0.1, weight_decay_end=0.1)
    optimizer = build(fixed=("patch_embed", "pos_embed"), **options)
    moved, same = move(optimizer, params, gradients), move(optimizer, params, spiked)
    jax.tree.map(np.testing.assert_array_equal, moved, same)
    for name in ("patch_embed", "pos_embed"):
        jax.tree.map(
            np.testing.assert_array_equal, moved["backbone"][name], params["backbone"][name]
        )
    assert (moved["backbone"]["cls_token"] != params["backbone"]["cls_token"]).any()


def test_a_fixed_name_without_parameters_is_refused():
    with pytest.raises(ValueError, match=r"fixed names \['patch_embd'\]; .*'patch_embed'"):
        build(fixed=("patch_embd",)).init(make_params())
