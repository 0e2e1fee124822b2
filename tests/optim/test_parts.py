"""Schedules in three parts against the tables that they stand for."""

import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.optim.optimizer import OptimizerConfig, build_optimizer
from dino_jax.optim.parts import Parts, PartsConfig, build_parts, take_parts
from dino_jax.optim.schedules import Constant


def table(start, peak, end, warmup, cosine, total):
    line = np.linspace(start, peak, warmup, endpoint=False)
    angles = np.linspace(0, np.pi, cosine)
    return np.concatenate(
        [line, end + (peak - end) * (1 + np.cos(angles)) / 2, np.full(total - warmup - cosine, end)]
    )


@pytest.mark.parametrize(
    "case",
    [
        (0.0, 5e-5, 5e-5, 10, 30, 60),  # constant after the warm-up
        (0.0, 0.0, 1.25e-5, 0, 20, 60),  # rises on a cosine
        (0.04, 0.07, 0.07, 60, 0, 60),  # a line over the whole run
        (1.0, 1.0, 0.5, 40, 10, 60),  # one step range
        (0.994, 0.994, 1.0, 0, 60, 60),
        (2.0, 1.0, 0.0, 5, 1, 60),  # a cosine of one point is the peak
    ],
)
def test_values_equal_the_table_on_the_host_and_on_devices(case):
    *values, total = case
    schedule, expected = Parts(*values), table(*values, total)
    clock = np.arange(total)
    np.testing.assert_allclose(schedule(clock), expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(schedule(jnp.asarray(clock)), expected, rtol=3e-6, atol=1e-9)
    np.testing.assert_allclose(schedule(total + 5), values[2], rtol=1e-12)


def test_only_peak_and_end_of_a_learning_rate_are_scaled():
    parts = {"lr": PartsConfig(1e-6, 3e-5, 1e-5, warmup_epochs=1.0, cosine_epochs=1.0)}
    config = OptimizerConfig(reference_batch=1024, lr_scaling="sqrt", parts=parts)
    length = dict(total_steps=40, steps_per_epoch=10)
    _, rates = build_optimizer(config, batch_size=4096, **length)
    np.testing.assert_allclose(
        [rates["lr"](0), rates["lr"](10), rates["lr"](19)], [1e-6, 6e-5, 2e-5]
    )
    np.testing.assert_allclose(rates["weight_decay"](0), 0.04)


def test_the_cosine_takes_the_rest_of_the_run_by_default():
    length = dict(total_steps=40, steps_per_epoch=10)
    schedule = build_parts("here", PartsConfig(0.0, 1.0, 0.0, warmup_epochs=1.0), **length)
    assert (schedule.warmup_steps, schedule.cosine_steps) == (10, 30)
    later = PartsConfig(0.0, 1.0, 0.0, warmup_epochs=5.0)  # of a longer schedule
    np.testing.assert_allclose(build_parts("here", later, **length)(39), 39 / 50)


def test_unknown_names_and_negative_values_are_errors():
    length = dict(total_steps=40, steps_per_epoch=10)
    known = {"weight": lambda: Constant(1.0)}
    with pytest.raises(ValueError, match=r"x\.parts has no 'weigth'; did you mean 'weight'"):
        take_parts("x.parts", {"weigth": PartsConfig()}, known, **length)
    with pytest.raises(ValueError, match=r"x\.parts\.weight\.end must be in 0 to inf, got -1"):
        take_parts("x.parts", {"weight": PartsConfig(end=-1.0)}, known, **length)
