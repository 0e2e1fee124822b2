"""Several students of one frozen teacher equal runs by themselves and cost one pass of it."""

from functools import partial

import jax
import numpy as np
import pytest

from configs import digits_dinov2
from dino_jax.config.defaults import to_config_dict
from dino_jax.plan.model_flops import count_flops
from dino_jax.run.whole_config import read_config
from dino_jax.step.recipe import build_recipe
from dino_jax.step.roles import RoleConfig
from dino_jax.step.students import make_students_step
from dino_jax.step.train_state import init_variables

IMAGES, STEPS = 8, 2
WIDTHS = {"small": 12, "wide": 24}


def teacher_network():
    config = digits_dinov2.get_config()
    config.network.dtype = "float32"
    config.network.backbone.update(embed_dim=48, depth=2, num_heads=3, drop_path_rate=0.0)
    for head in config.network.heads.values():
        head.update(out_dim=16, hidden_dim=12, bottleneck_dim=8)
    return build_recipe(read_config(config), 100).network


def student_config(width: int):
    config = digits_dinov2.get_config()
    config.batch_size, config.steps_per_epoch, config.epochs = IMAGES, 1, float(STEPS)
    config.masking.group_size = config.objectives.koleo.group_size = IMAGES
    config.network.dtype = "float32"
    config.network.backbone.update(embed_dim=width, depth=1, num_heads=2, drop_path_rate=0.0)
    for head in config.network.heads.values():
        head.update(out_dim=16, hidden_dim=width, bottleneck_dim=8)
    config.roles.student.masked = "no"
    config.roles.teacher.sees = ()
    config.roles.frozen_teacher = to_config_dict(RoleConfig(follow="frozen", sees=("global",)))
    for name in ("dino", "ibot"):
        config.objectives[name].targets = "frozen_teacher"
    config.optimizer.update(warmup_epochs=0.0, freeze_last_layer_epochs=0.0)
    config.optimizer.adamw.eps = 1e-3  # rounding noise does not become steps
    return config


@pytest.fixture(scope="module")
def parts():
    """Recipes, first states, and the variables of the frozen role."""
    network = teacher_network()
    recipes = {
        name: build_recipe(read_config(student_config(width)), 100, {"frozen_teacher": network})
        for name, width in WIDTHS.items()
    }
    states = {name: jax.jit(each.init)(jax.random.key(1)) for name, each in recipes.items()}
    init = jax.jit(partial(init_variables, network, (32, 32, 3)))
    return recipes, states, {"frozen_teacher": init(jax.random.key(7))}


def draw_batch(recipe, step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    crops = {"global_crops": (IMAGES, 2, 32, 32, 3), "local_crops": (IMAGES, 2, 16, 16, 3)}
    drawn = {name: rng.normal(size=shape).astype(np.float32) for name, shape in crops.items()}
    return {**drawn, **recipe.masking(0, step, 0)}


def test_students_of_one_teacher_learn_what_each_learns_by_itself(parts):
    recipes, states, frozen = parts
    joint = jax.jit(make_students_step(recipes))
    alone = {name: jax.jit(recipe.make_step()) for name, recipe in recipes.items()}
    together, single = dict(states), dict(states)
    for index in range(STEPS):
        batch = draw_batch(recipes["small"], index)
        together, metrics = joint(together, batch, frozen)
        for name, step in alone.items():
            single[name], wanted = step(single[name], batch, frozen)
            for loss in ("loss", "dino/loss", "ibot/loss", "koleo/loss"):
                np.testing.assert_allclose(
                    metrics[name][loss], wanted[loss], rtol=1e-5, err_msg=f"{name} {loss}"
                )
    for name, state in single.items():
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=0, atol=1e-6),
            jax.device_get(together[name].networks),
            jax.device_get(state.networks),
        )


def test_the_backbone_of_the_teacher_runs_once(parts):
    """Two steps by themselves take one pass of the teacher's backbone more."""
    recipes, states, frozen = parts
    batch = draw_batch(recipes["small"], 0)

    def flops(step, state):
        return count_flops(jax.make_jaxpr(step)(state, batch, frozen).jaxpr)

    alone = sum(flops(recipes[name].make_step(), states[name]) for name in recipes)
    joint = flops(make_students_step(recipes), states)
    network = recipes["small"].roles["frozen_teacher"].network
    images = batch["global_crops"].reshape(-1, 32, 32, 3)
    once = count_flops(jax.make_jaxpr(network.apply)(frozen["frozen_teacher"], images).jaxpr)
    assert once > 0.1 * joint
    assert alone - joint == once


def test_students_that_cannot_share_a_teacher_are_refused(parts):
    recipes, *_ = parts
    with pytest.raises(ValueError, match="at least one student"):
        make_students_step({})
    config = student_config(12)
    config.augment.crops.local.count = 1
    other = build_recipe(read_config(config), 100, {"frozen_teacher": teacher_network()})
    with pytest.raises(ValueError, match="share a batch, but differ in views"):
        make_students_step({"small": recipes["small"], "other": other})
    plain = build_recipe(read_config(digits_dinov2.get_config()), 100)
    with pytest.raises(ValueError, match="plain has no frozen role that sees crops"):
        make_students_step({"plain": plain})
