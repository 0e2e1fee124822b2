"""Preservation: cosines to a frozen network, against NumPy."""

import jax.numpy as jnp
import numpy as np

from dino_jax.objectives.base import Context
from dino_jax.objectives.preserve import Config, build
from tests.objectives.branches import as_outputs

CONTEXT = Context("student", {}, {}, total_steps=4, steps_per_epoch=1)
B, V, N, D = 3, 2, 4, 5


def features(seed):
    rng = np.random.default_rng(seed)
    return {"cls": rng.normal(size=(B, V, D)), "patches": rng.normal(size=(B, V, N, D))}


def call(student, targets, batch, **changes):
    objective = build("config.objectives.preserve", Config(**changes), CONTEXT)
    own = {"cls": np.concatenate([student["cls"]] * 2, axis=1),  # and views of another group
           "patches": np.concatenate([student["patches"]] * 2, axis=1)}  # fmt: skip
    branches = {"student": as_outputs(**own, global_views=V), "start": as_outputs(**targets)}
    return objective(branches, batch, objective.init(), jnp.asarray(0))


def cosines(x, y):
    return np.sum(x * y, -1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)


def test_the_loss_is_one_minus_the_cosine_of_cls_and_of_patches():
    student, targets = features(0), features(1)
    outcome = call(student, targets, {}, patches_weight=0.5)
    cls, patches = (cosines(student[key], targets[key]).mean() for key in ("cls", "patches"))
    np.testing.assert_allclose(outcome.loss, 1 - cls + 0.5 * (1 - patches), rtol=1e-5)
    np.testing.assert_allclose(outcome.metrics["cosine"], patches, rtol=1e-4)


def test_masked_patches_do_not_count():
    student, targets = features(0), features(1)
    masks = np.random.default_rng(2).random((B, V, N)) < 0.5
    outcome = call(student, targets, {"masks": jnp.asarray(masks)})
    kept = cosines(student["patches"], targets["patches"])[~masks].mean()
    cls = cosines(student["cls"], targets["cls"]).mean()
    np.testing.assert_allclose(outcome.loss, 2 - cls - kept, rtol=1e-5)


def test_the_start_itself_loses_nothing():
    same = features(0)
    longer = {key: 3 * x for key, x in same.items()}
    np.testing.assert_allclose(call(same, longer, {}).loss, 0.0, atol=1e-6)
