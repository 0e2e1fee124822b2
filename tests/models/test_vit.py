"""The Vision Transformer against recorded outputs of the official code."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.models.vision_transformer import VisionTransformer
from dino_jax.weights import from_torch, to_torch
from tests.models.sketch import assert_gradients_equal

SIZES = ("s64", "s32", "r32x128", "odd50x83")


def tiny_vit(**changes) -> VisionTransformer:
    settings = dict(embed_dim=48, depth=3, num_heads=3, patch_size=8, image_size=(64, 64))
    return VisionTransformer(**settings | changes)


def load(golden, vit):
    arrays = golden("v1/vit_tiny48")
    state_dict = {name[3:]: arrays[name] for name in arrays.files if name.startswith("sd/")}
    shapes = jax.eval_shape(vit.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    like = {"params": {"backbone": shapes["params"]}}
    return arrays, {"params": from_torch(state_dict, like)["params"]["backbone"]}


def channels_last(x):
    return np.transpose(x, (0, 2, 3, 1))


def tokens(features):
    return np.concatenate([features["cls"][:, None], features["patches"]], axis=1)


@pytest.mark.parametrize("size", SIZES)
def test_forward_equals_official(golden, size):
    vit = tiny_vit()
    arrays, variables = load(golden, vit)
    images = channels_last(arrays[f"{size}/x"])

    @jax.jit
    def compute(variables, images):
        layers = vit.apply(variables, images, layers=(0, 1, 2), method="intermediate")
        attention = vit.apply(variables, images, method="attention")
        return vit.apply(variables, images)["cls"], layers, attention

    cls, layers, attention = compute(variables, images)
    np.testing.assert_allclose(cls, arrays[f"{size}/cls"], rtol=0, atol=2e-5)
    for index, features in enumerate(layers):
        np.testing.assert_allclose(
            tokens(features), arrays[f"{size}/inter_{index}"], rtol=0, atol=2e-5
        )
    np.testing.assert_allclose(  # every 8th query is recorded
        attention[:, :, ::8], arrays[f"{size}/last_attn"], rtol=0, atol=2e-5
    )


@pytest.mark.parametrize(
    "changes",
    [
        *({}, {"remat": "names"}, {"remat": "full"}),
        *({"scan_unroll": 3}, {"scan_unroll": 3, "remat": "full"}),
    ],
)
def test_gradients_equal_official_through_position_resize(golden, changes):
    vit = tiny_vit(**changes)
    arrays, variables = load(golden, vit)

    def scalar(params, images):
        return jnp.sum(vit.apply(params, images)["cls"] * arrays["s32/cotangent"])

    images = channels_last(arrays["s32/x"])
    grads, grad_images = jax.jit(jax.grad(scalar, argnums=(0, 1)))(variables, images)
    np.testing.assert_allclose(
        grad_images, channels_last(arrays["s32/grad_x"]), rtol=1e-4, atol=2e-5
    )
    ours = to_torch({"params": {"backbone": grads["params"]}})
    ours = {name.removeprefix("backbone."): value for name, value in ours.items()}
    assert {f"s32/grad/{name}" for name in ours} == {n for n in arrays.files if "/grad/" in n}
    assert_gradients_equal(ours, arrays, "s32/grad/")


def lower_gradient(**changes):
    vit, images = tiny_vit(**changes), jnp.zeros((16, 32, 32, 3))
    params = jax.eval_shape(vit.init, jax.random.key(0), images)
    return jax.jit(jax.grad(lambda p: jnp.sum(vit.apply(p, images)["cls"]))).lower(params)


def test_what_is_computed_again_needs_no_memory():
    none, names, full = (
        lower_gradient(remat=remat).compile().memory_analysis().temp_size_in_bytes
        for remat in ("none", "names", "full")
    )
    assert full < names < none


def test_without_a_loop_barriers_keep_what_is_computed_again_from_being_merged():
    # Only seen in the program: XLA takes no notice of barriers on CPUs.
    assert "optimization_barrier" in lower_gradient(remat="full", scan_unroll=3).as_text()
    assert "optimization_barrier" not in lower_gradient(remat="full").as_text()
    assert "optimization_barrier" not in lower_gradient(scan_unroll=3).as_text()


def test_stochastic_depth_is_off_without_rng_and_keeps_the_mean_with_one():
    vit = tiny_vit(drop_path_rate=0.5, depth=2)
    images = jax.random.normal(jax.random.key(1), (1, 32, 32, 3))
    variables = vit.init(jax.random.key(0), images)
    plain = vit.apply(variables, images)["cls"]
    np.testing.assert_array_equal(plain, vit.apply(variables, images)["cls"])
    apply = jax.jit(lambda key: vit.apply(variables, images, rngs={"drop_path": key})["cls"])
    draws = [np.asarray(apply(jax.random.key(i))) for i in range(16)]
    # Block 0 never drops; block 1 drops each of its two branches half of the time.
    assert len({draw.tobytes() for draw in draws}) == 4


def test_wrong_block_index_is_a_clear_error():
    vit = tiny_vit()
    images = jnp.zeros((1, 32, 32, 3))
    with pytest.raises(ValueError, match="different indices in \\[-3, 3\\)"):
        vit.init(jax.random.key(0), images, layers=(3,), method="encode")


def test_bfloat16_activations_keep_float32_parameters():
    vit = tiny_vit(dtype=jnp.bfloat16)
    variables = vit.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert vit.apply(variables, jnp.zeros((1, 32, 32, 3)))["cls"].dtype == jnp.bfloat16


def test_initialisation_has_the_official_spread():
    vit = tiny_vit(embed_dim=192)
    params = jax.jit(partial(vit.init))(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    assert abs(float(jnp.std(params["blocks"]["mlp"]["fc1"]["kernel"])) - 0.02) < 2e-4
    bound = (3 * 8 * 8) ** -0.5
    for leaf in params["patch_embed"].values():
        assert float(jnp.abs(leaf).max()) <= bound
        assert abs(float(jnp.std(leaf)) - bound / 3**0.5) < 0.1 * bound
    first, second, _ = params["blocks"]["mlp"]["fc1"]["kernel"]
    assert not np.allclose(first, second)
