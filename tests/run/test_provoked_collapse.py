"""Collapses to one point that are provoked in training, and what the diagnosis says about them."""

import jax
import numpy as np
import pytest

from configs import digits_byol, digits_simdino
from dino_jax.run.diagnosis import RULES, History, diagnose
from dino_jax.run.whole_config import read_config
from dino_jax.step.recipe import build_recipe

IMAGES, STEPS = 16, 60


def byol():
    """Without BatchNorm, and with a teacher that is the student of the step before."""
    config = digits_byol.get_config()
    config.roles.teacher.update(momentum=0.0, momentum_end=0.0)
    return config


def simdino():
    """Without BatchNorm, and with a coding rate that counts for nothing beside the cosines."""
    config = digits_simdino.get_config()
    del config.augment.crops.local
    config.roles.student.sees = ("global",)
    config.objectives.simdino.cosine_weight = 1e4
    return config


def train(config):
    """The lines of a tiny run without a warm-up."""
    config.batch_size, config.steps_per_epoch, config.epochs = IMAGES, 1, float(STEPS)
    config.network.backbone.update(embed_dim=12, depth=1, num_heads=2, drop_path_rate=0.0)
    for head in config.network.heads.values():
        head.update(hidden_dim=16, out_dim=8, batch_norm=False)
    config.optimizer.update(lr=0.02, reference_batch=IMAGES, warmup_epochs=0.0, clip_grad=0.0)
    recipe = build_recipe(read_config(config), 100)
    state, step = jax.jit(recipe.init)(jax.random.key(0)), jax.jit(recipe.make_step())
    for index in range(STEPS):
        rng = np.random.default_rng(index)
        crops = np.repeat(rng.normal(size=(IMAGES, 1, 32, 32, 3)), 2, axis=1)
        crops += 0.3 * rng.normal(size=crops.shape)
        state, metrics = step(state, {"global_crops": crops.astype(np.float32)})
        scalars = {name: x for name, x in metrics.items() if getattr(x, "ndim", 1) == 0}
        yield {"step": index + 1} | {name: float(x) for name, x in scalars.items()}


@pytest.mark.parametrize("make", [byol, simdino])
def test_a_provoked_collapse_to_one_point_is_named(make):
    history, states = History(0), []
    for record in train(make()):
        history.add(record)
        states.append(diagnose(history).state)
    assert states[-1] == "one_point_collapse"
    assert f"{make.__name__} uniformity" in diagnose(history).evidence


@pytest.mark.parametrize("others", [{}, {"health/effective_rank": 1.0}, {"mae/accuracy": 0.0}])
def test_rules_are_silent_about_numbers_that_a_run_does_not_have(others):
    """As MAE: a loss, and neither a teacher nor projections nor targets."""
    history = History(0)
    for step in range(1, 9):
        history.add({"step": step, "loss": 0.9, "mae/loss": 0.9} | others)
    found = [evidence for rule in RULES if (evidence := rule.find(history))]
    assert not any("uniformity" in one or "entropy" in one for one in found)
