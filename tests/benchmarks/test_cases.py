"""The configs of the benchmarks, which nothing else in the suite reads."""

import jax
import numpy as np
import pytest

from dino_jax.plan.model_flops import model_flops_per_image
from dino_jax.step.recipe import build_recipe
from tests.benchmarks.step.cases import CPU_CASES, IMAGES, cpu_config


@pytest.mark.parametrize("name", sorted(CPU_CASES))
def test_every_case_builds_a_recipe_and_its_work_is_counted(name: str):
    config = cpu_config(CPU_CASES[name], {"network.backbone.remat": "names"})
    state = jax.eval_shape(build_recipe(config, IMAGES).init, jax.random.key(0))
    numbers = sum(np.prod(x.shape) for x in jax.tree.leaves(state.networks["student"]))
    # Every weight takes part in 6 operations per crop, and there are two crops at least.
    assert model_flops_per_image(config, IMAGES) > 12 * numbers
