"""Rotary positions against recorded tables of the official code, and what the options do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.models.build import NetworkConfig, build_network
from dino_jax.models.rope import Config, draw_augmentation, make_rotation, periods, rotate
from dino_jax.models.vit import Config as VitConfig
from tests.plain_dinov3 import angles

VARIANTS = {
    "base100_separate": Config(),
    "base100_max": Config(normalize="max"),
    "base100_min": Config(normalize="min"),
    "minmax_period": Config(min_period=0.5, max_period=8.0),
}
GRID = (3, 5)


def assert_tables(rotation, sines, cosines, tolerance=3e-7):
    for ours, theirs in zip(rotation, (sines, cosines), strict=True):
        np.testing.assert_allclose(np.float32(ours), theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", VARIANTS)
def test_tables_equal_official_for_every_normalization(golden, name):
    recorded, rope = golden("v3/rope"), VARIANTS[name]
    np.testing.assert_array_equal(periods(rope, 16), recorded[f"rope/{name}/periods"])
    rotation = make_rotation(rope, 16, GRID)
    assert_tables(rotation, *(recorded[f"rope/{name}/{part}_3x5"] for part in ("sin", "cos")))


def test_tables_in_bfloat16_equal_those_of_the_released_trainer(golden):
    recorded, rope = golden("v3/rope"), Config(precision="bfloat16")
    np.testing.assert_array_equal(periods(rope, 16), recorded["rope/bf16/periods_as_f32"])
    sines = recorded["rope/bf16/sin_3x5_as_f32"]
    still = make_rotation(rope, 16, GRID)
    drawn = jax.jit(lambda draw: make_rotation(rope, 16, GRID, draw))(jnp.zeros(5))
    for rotation in (still, drawn):
        assert rotation.sines.dtype == jnp.bfloat16
        np.testing.assert_array_equal(np.float32(rotation.sines), sines)
    exact = make_rotation(Config(), 16, GRID).sines
    assert 1e-3 < np.abs(exact - sines).max() < 0.02


def test_rounded_periods_still_have_float32_tables():
    rope = Config(precision="bfloat16_periods")
    rounded = periods(Config(), 64).astype(jnp.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(periods(rope, 64), rounded)
    rotation = make_rotation(rope, 64, (1, 2))
    assert rotation.sines.dtype == np.float32
    np.testing.assert_allclose(rotation.sines[1, 16:32], np.sin(np.pi / rounded), atol=1e-6)


def test_an_augmentation_equals_the_recorded_one_with_its_draws(golden):
    recorded = golden("v3/rope")
    draws = [recorded[f"rope/train/draw{i}_uniform_before_exp"] for i in range(3)]
    rotation = make_rotation(Config(), 16, GRID, jnp.concatenate(draws))
    assert_tables(rotation, recorded["rope/train/sin_3x5"], recorded["rope/train/cos_3x5"])
    bounds = [recorded[f"rope/train/draw{i}_lo_hi"][1] for i in range(3)]
    rope = Config(
        shift=float(bounds[0]), jitter=float(np.exp(bounds[1])), rescale=float(np.exp(bounds[2]))
    )
    drawn = np.abs(draw_augmentation(jax.random.key(0), rope, 4000)).max(axis=0)
    np.testing.assert_allclose(drawn, np.repeat(bounds, (2, 2, 1)), rtol=0.01)


def test_products_of_turned_vectors_depend_on_the_distance_alone():
    rope, draws = Config(), np.random.default_rng(0)
    query, key = (draws.normal(size=(1, 1, 1, 16)).astype(np.float32) for _ in range(2))
    rotation = make_rotation(rope, 16, (4, 4))
    turned = [rotate(jnp.broadcast_to(x, (1, 16, 1, 16)), rotation)[0, :, 0] for x in (query, key)]
    scores = np.asarray(turned[0] @ turned[1].T).reshape(4, 4, 4, 4)
    np.testing.assert_allclose(scores[0, 0, 1, 2], scores[2, 1, 3, 3], rtol=1e-4)
    assert abs(scores[0, 0, 1, 2] - scores[0, 0, 2, 1]) > 1e-3


def test_tokens_in_front_of_the_patches_stay():
    x = np.random.default_rng(0).normal(size=(2, 3 + 6, 2, 8)).astype(np.float32)
    rotation = make_rotation(Config(), 8, (2, 3))
    turned = np.asarray(rotate(jnp.asarray(x), rotation))
    np.testing.assert_array_equal(turned[:, :3], x[:, :3])
    table = np.asarray(angles(2, 3, 8))[:, :4]
    expected = (x[:, 3:, :, :4] + 1j * x[:, 3:, :, 4:]) * np.exp(1j * table)[:, None]
    np.testing.assert_allclose(turned[:, 3:, :, :4], expected.real, atol=1e-6)
    np.testing.assert_allclose(turned[:, 3:, :, 4:], expected.imag, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 64}, r"embed_dim / num_heads \(6\) must be a multiple of 4"),
        ({"rope": Config(min_period=1.0)}, "come together"),
        ({"rope": Config(min_period=2.0, max_period=1.0)}, "must be below"),
        (
            {"num_heads": 96, "rope": Config(min_period=1.0, max_period=2.0)},
            r"embed_dim / num_heads \(4\) of 8 or more",
        ),
    ],
)
def test_options_that_do_not_fit_are_clear_errors(changes, message):
    vit = dataclasses.replace(VitConfig(position="rope"), **changes)
    with pytest.raises(ValueError, match=message):
        build_network(NetworkConfig(backbone=vit, heads={}))
