"""DINOv2's step: masks, groups of images, several objectives and heads at once."""

from functools import partial

import jax
import numpy as np
import pytest

from configs import digits_dinov2
from dino_jax.step.recipe import build_recipe

IMAGES, GROUP = 8, 2


@pytest.fixture(scope="module")
def config():
    config = digits_dinov2.get_config()
    config.batch_size, config.masking.group_size = IMAGES, GROUP
    config.network.backbone.update(depth=2, drop_path_rate=0.0, remat="none")
    for name in ("dino", "ibot"):
        config.network.heads[name].update(out_dim=32, hidden_dim=16, bottleneck_dim=8)
        config.network.heads[name].batch_norm = False
        config.objectives[name].centering = "center"
    config.objectives.koleo.group_size = GROUP
    return config


def make_batch(recipe, step: int):
    rng = np.random.default_rng(step)
    groups = [recipe.masking(0, step, group) for group in range(IMAGES // GROUP)]
    return {
        "global_crops": rng.normal(size=(IMAGES, 2, 32, 32, 3)).astype(np.float32),
        "local_crops": rng.normal(size=(IMAGES, 2, 16, 16, 3)).astype(np.float32),
        **{name: np.concatenate([group[name] for group in groups]) for name in groups[0]},
    }


def run(config, accumulate_steps: int, steps: int):
    config = config.copy_and_resolve_references()
    config.accumulate_steps = accumulate_steps
    recipe = build_recipe(config, 100)
    state = jax.jit(recipe.init)(jax.random.key(0))
    step = jax.jit(recipe.make_step())
    metrics = {}
    for index in range(steps):
        state, metrics = step(state, make_batch(recipe, index))
    return jax.device_get((state, metrics))


@pytest.fixture(scope="module")
def whole(config):
    return run(config, accumulate_steps=1, steps=2)


def test_all_objectives_and_heads_take_part(whole):
    state, metrics = whole
    assert {"heads_dino", "heads_ibot", "backbone"} == set(state.networks["teacher"]["params"])
    assert {"center"} == set(state.objectives["dino"]) == set(state.objectives["ibot"])
    weighted = metrics["dino/loss"] + metrics["ibot/loss"] + 0.1 * metrics["koleo/loss"]
    np.testing.assert_allclose(metrics["loss"], weighted, rtol=1e-6)
    assert metrics["ibot/masked_share"] > 0
    assert np.any(state.networks["student"]["params"]["backbone"]["mask_token"] != 0)


def test_accumulation_deals_whole_groups_of_images(config):
    # One step: the center of iBOT is a mean over masked patches, of which parts have unequal many.
    (whole, metrics), (split, split_metrics) = (run(config, n, steps=1) for n in (1, 2))
    for name in ("dino/loss", "ibot/loss", "koleo/loss", "grad_norm"):
        np.testing.assert_allclose(split_metrics[name], metrics[name], rtol=1e-5, err_msg=name)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=0, atol=1e-6),
        split.objectives["dino"],
        whole.objectives["dino"],
    )


def test_masks_need_a_mask_token(config):
    config = config.copy_and_resolve_references()
    config.network.backbone.has_mask_token = False
    with pytest.raises(ValueError, match="has_mask_token=True"):
        build_recipe(config, 100)


def test_ibot_needs_masks(config):
    config = config.copy_and_resolve_references()
    config.masking.probability = 0.0
    with pytest.raises(ValueError, match=r"set config\.masking\.probability"):
        build_recipe(config, 100)
