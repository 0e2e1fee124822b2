"""Gram anchoring against recordings of the official code and NumPy loops over pairs of patches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.objectives.base import Context, Input, Outputs
from dino_jax.objectives.gram import Config, GramObjective, build, gram_loss
from dino_jax.objectives.grid_resize import find_grid, resize_grid
from dino_jax.optim.parts import PartsConfig
from dino_jax.optim.schedules import Constant

CONTEXT = Context("student", {}, {}, total_steps=40, steps_per_epoch=10)


def test_loss_and_gradient_equal_official(golden):
    arrays = golden("v3/losses")
    loss, grad = jax.jit(jax.value_and_grad(gram_loss))(
        arrays["gram/student"], arrays["gram/teacher"]
    )
    np.testing.assert_allclose(loss, arrays["gram/img_norm/loss"], rtol=1e-6)
    np.testing.assert_allclose(grad, arrays["gram/img_norm/grad"], rtol=0, atol=1e-6)


def test_resized_features_equal_official(golden):
    arrays = golden("v3/losses")
    resized = resize_grid(arrays["gram/teacher_hires_6x6"], (6, 6), (3, 3))
    np.testing.assert_allclose(resized, arrays["gram/teacher_resized_3x3_bicubic"], atol=1e-6)


def test_resizing_to_the_same_grid_changes_nothing_and_a_constant_stays_one():
    x = np.random.default_rng(0).normal(size=(2, 6, 5)).astype(np.float32)
    np.testing.assert_allclose(resize_grid(x, (2, 3), (2, 3)), x, atol=1e-6)
    np.testing.assert_allclose(resize_grid(jnp.ones((1, 6, 2)), (2, 3), (5, 4)), 1.0, atol=1e-6)


@pytest.mark.parametrize(
    ("image", "patches", "grid"),
    [((64, 64), 16, (4, 4)), ((50, 90), 15, (3, 5)), ((32, 16), 8, (4, 2)), ((7, 7), 1, (1, 1))],
)
def test_the_grid_follows_from_the_image_and_the_number_of_patches(image, patches, grid):
    assert find_grid(*image, patches) == grid


def test_a_number_of_patches_that_no_square_gives_is_refused():
    with pytest.raises(ValueError, match="64 x 64 pixels has no 17 square patches"):
        find_grid(64, 64, 17)


def loop_loss(student, targets, taken=None, normalize=True, negatives="keep"):
    """One set [n, D] after the definition: all pairs of the patches that are taken."""
    rows = np.flatnonzero(np.ones(len(student)) if taken is None else taken)
    total = 0.0
    for i in rows:
        for j in rows:
            pair = []
            for x in (student.astype(np.float64), targets.astype(np.float64)):
                length = np.linalg.norm(x[i]) * np.linalg.norm(x[j]) if normalize else 1.0
                pair.append(x[i] @ x[j] / length)
            ours, theirs = pair
            if negatives == "remove":
                ours, theirs = max(ours, 0.0), max(theirs, 0.0)
            elif negatives == "remove_targets":
                theirs = max(theirs, 0.0)
            total += (ours - theirs) ** 2
    return total / len(rows) ** 2


def draw(images=4, views=2, tokens=4, dim=6):
    """Patches [B, V, N, D] of both networks, and masks."""
    rng = np.random.default_rng(0)
    student, targets = rng.normal(size=(2, images, views, tokens, dim)).astype(np.float32)
    return student, targets, rng.random((images, views, tokens)) < 0.5


def as_outputs(patches, group, side):
    views = [jnp.asarray(patches[:, view]) for view in range(patches.shape[1])]
    image = Input(jnp.zeros((len(patches), side, side, 3)), None)
    features = tuple({"patches": view} for view in views)
    return Outputs(features, (group,) * len(views), lambda head, x: x, (image,) * len(views))


def run(objective, student, targets, masks=None, crops="global", side=8, anchor_side=8):
    branches = {
        "student": as_outputs(student, "global", side),
        objective.targets: as_outputs(targets, crops, anchor_side),
    }
    return objective(branches, {"masks": masks}, {}, jnp.asarray(0))


@pytest.mark.parametrize("negatives", ["keep", "remove", "remove_targets"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("tokens", ["all", "masked", "unmasked"])
@pytest.mark.parametrize("group_size", [0, 2])
def test_level_of_batches_equals_loops_over_pairs(group_size, tokens, normalize, negatives):
    student, targets, masks = draw()
    objective = GramObjective(
        Constant(1.0),
        crops="global",
        level="batch",
        group_size=group_size,
        tokens=tokens,
        normalize=normalize,
        negatives=negatives,
    )
    outcome = run(objective, student, targets, jnp.asarray(masks))
    size, losses = group_size or 4, []
    for start in range(0, 4, size):
        ours, theirs = (x[start : start + size].reshape(-1, 6) for x in (student, targets))
        of_set = masks[start : start + size].reshape(-1)
        taken = {"all": None, "masked": of_set, "unmasked": ~of_set}[tokens]
        losses.append(loop_loss(ours, theirs, taken, normalize, negatives))
    np.testing.assert_allclose(outcome.loss, np.mean(losses), rtol=3e-6)


@pytest.mark.parametrize("negatives", ["keep", "remove", "remove_targets"])
def test_level_of_images_is_the_mean_over_images_and_views(negatives):
    student, targets, _ = draw()
    objective = GramObjective(Constant(1.0), crops="global", negatives=negatives)
    outcome = run(objective, student, targets)
    losses = [
        loop_loss(student[i, v], targets[i, v], negatives=negatives)
        for i in range(4)
        for v in range(2)
    ]
    np.testing.assert_allclose(outcome.loss, np.mean(losses), rtol=1e-6)


def test_features_of_larger_crops_are_resized_to_the_students_grid():
    student, _, _ = draw()
    larger = np.random.default_rng(1).normal(size=(4, 2, 16, 5)).astype(np.float32)
    objective = GramObjective(Constant(1.0))
    outcome = run(objective, student, larger, crops="gram", side=8, anchor_side=16)
    small = np.asarray(resize_grid(larger, (4, 4), (2, 2)))
    losses = [loop_loss(student[i, v], small[i, v]) for i in range(4) for v in range(2)]
    np.testing.assert_allclose(outcome.loss, np.mean(losses), rtol=1e-6)


def test_a_set_without_a_taken_patch_adds_nothing():
    student, targets, _ = draw()
    options = dict(crops="global", level="batch", tokens="masked", group_size=2)
    masks = np.zeros((4, 2, 4), bool)
    masks[0, 0, :2] = True  # nothing in the second group
    outcome = run(GramObjective(Constant(1.0), **options), student, targets, jnp.asarray(masks))
    ours, theirs = (x[0, 0, :2] for x in (student, targets))
    np.testing.assert_allclose(outcome.loss, loop_loss(ours, theirs) / 2, rtol=1e-6)


def test_zero_features_and_bfloat16_have_finite_losses_and_gradients():
    zeros, (student, targets, _) = jnp.zeros((1, 4, 6)), draw()
    value, grad = jax.value_and_grad(gram_loss)(zeros, jnp.asarray(targets[:1, 0]))
    assert np.isfinite(value) and np.isfinite(grad).all()
    short = jnp.asarray(student[:, 0], jnp.bfloat16)
    np.testing.assert_allclose(
        gram_loss(short, targets[:, 0]),
        gram_loss(np.asarray(short, np.float32), targets[:, 0]),
        rtol=1e-6,
    )


def test_the_anchor_gets_no_gradient():
    student, targets, _ = draw()
    grad = jax.grad(gram_loss, argnums=1)(jnp.asarray(student), jnp.asarray(targets))
    np.testing.assert_array_equal(grad, 0)


def test_weight_may_have_a_schedule_of_its_own():
    parts = {"weight": PartsConfig(0.0, 0.0, 2.0, warmup_epochs=1.0, cosine_epochs=1.0)}
    objective = build("config.objectives.gram", Config(parts=parts), CONTEXT)
    values = [float(objective.weight(step)) for step in (0, 10, 19, 30)]
    np.testing.assert_allclose(values, [0.0, 0.0, 2.0, 2.0], atol=1e-12)
    assert float(build("config.objectives.gram", Config(), CONTEXT).weight(0)) == 2.0


@pytest.mark.parametrize("wrong", [dict(tokens="masked"), dict(group_size=4)])
def test_single_tokens_and_groups_need_the_level_of_batches(wrong):
    with pytest.raises(ValueError, match=r"--config\.objectives\.gram\.level=batch"):
        build("config.objectives.gram", Config(**wrong), CONTEXT)


def test_an_unknown_schedule_is_an_error():
    with pytest.raises(ValueError, match=r"gram\.parts has no 'wight'; did you mean 'weight'"):
        build("config.objectives.gram", Config(parts={"wight": PartsConfig()}), CONTEXT)
