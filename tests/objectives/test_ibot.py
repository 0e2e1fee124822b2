"""iBOT against recorded outputs of the official code and a plain loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.data.block_masking import BlockMasking
from dino_jax.data.mask_indices import index_masks
from dino_jax.objectives.centering import Center, Sinkhorn
from dino_jax.objectives.ibot import IbotObjective, gather_patches
from dino_jax.optim.schedules import Constant
from tests.objectives.branches import as_outputs, image_major, log_softmax, run


def scatter(rows, masks):
    """[B, G, N, K] patches that hold `rows` where masked and noise elsewhere."""
    patches = np.random.default_rng(0).normal(size=(*masks.shape, rows.shape[-1]))
    patches[masks] = rows
    return jnp.asarray(patches, jnp.float32)


@pytest.mark.parametrize("name", ["centering", "sinkhorn"])
def test_loss_gradient_and_center_equal_official(golden, name):
    arrays = {key: golden("v2/b_losses")[key] for key in golden("v2/b_losses").files}
    masks = image_major(arrays["ibot/mask"], 6)
    indexed = index_masks(masks, 40)
    batch = {key: array[None] for key, array in indexed.items()}
    # The recorded rows are crop-major, ours image-major.
    order = np.argsort(
        np.ravel_multi_index(
            [np.nonzero(arrays["ibot/mask"])[0] % 6, np.nonzero(arrays["ibot/mask"])[0] // 6,
             np.nonzero(arrays["ibot/mask"])[1]], masks.shape
        )
    )  # fmt: skip
    student, teacher = (
        {"patches": scatter(arrays[f"ibot/{branch}_logits"][order], masks)}
        for branch in ("student", "teacher")
    )
    centering = {"centering": Center(0.9), "sinkhorn": Sinkhorn()}[name]
    temperature = Constant(float(arrays["dino/teacher_temp"]))
    objective = IbotObjective("ibot", 64, 0.1, temperature, centering)
    states = {"centering": {"center": arrays["ibot/center0"][0, 0]}, "sinkhorn": {}}

    outcome, grads = run(objective, student, teacher, batch, states[name])
    grads = np.asarray(grads["patches"])
    np.testing.assert_allclose(outcome.loss, arrays[f"ibot/loss_{name}"], rtol=1e-5)
    np.testing.assert_allclose(outcome.metrics["logged_loss"], outcome.loss / 2, rtol=1e-6)
    wanted = arrays[f"ibot/grad_student_{name}"][order]
    np.testing.assert_allclose(grads[masks], wanted, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(grads[~masks], 0)
    if name == "centering":
        wanted = arrays["ibot/center_after_1"][0, 0]
        np.testing.assert_allclose(outcome.state["center"], wanted, rtol=0, atol=1e-6)


def test_groups_of_images_give_the_mean_over_crops_of_the_mean_over_their_masked_patches():
    masking = BlockMasking((4, 4), 2, 3, 0.5, (0.2, 0.5))
    drawn = [masking(0, 0, group) for group in range(2)]
    batch = {name: np.concatenate([group[name] for group in drawn]) for name in drawn[0]}
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 6, 2, 16, 5)).astype(np.float32)
    objective = IbotObjective("dino", 5, 0.1, Constant(0.07), Center(0.9))
    state = objective.init()
    outcome, _ = run(objective, {"patches": student}, {"patches": teacher}, batch, state)
    targets = np.exp(log_softmax(teacher / 0.07))
    cross_entropy = -(targets * log_softmax(student / 0.1)).sum(-1)
    per_crop = [
        cross_entropy[image, crop][mask].mean() if mask.any() else 0.0
        for image, masks in enumerate(batch["masks"])
        for crop, mask in enumerate(masks)
    ]
    assert per_crop.count(0.0) == 6
    np.testing.assert_allclose(outcome.loss, np.mean(per_crop), rtol=1e-5)
    kl = cross_entropy + (targets * log_softmax(teacher / 0.07)).sum(-1)
    pairs = zip(kl.reshape(-1, 16), batch["masks"].reshape(-1, 16), strict=True)
    wanted = np.mean([each[mask].mean() for each, mask in pairs if mask.any()])
    np.testing.assert_allclose(outcome.metrics["kl"], wanted, rtol=1e-5)
    np.testing.assert_allclose(outcome.metrics["masked_share"], batch["masks"].mean(), rtol=1e-6)
    mean = teacher[batch["masks"]].mean(0)
    np.testing.assert_allclose(outcome.state["center"], 0.1 * mean, rtol=1e-4, atol=1e-6)


def test_patches_are_gathered_from_the_global_views_only():
    patches = np.arange(4 * 3 * 2 * 1, dtype=np.float32).reshape(4, 3, 2, 1)
    indices = np.array([[0, 3, 4], [1, 2, 7]], np.int32)  # groups of 2 images, 2 views, 2 patches
    got = gather_patches(as_outputs(patches=patches, global_views=2).of_group("global"), indices)
    wanted = patches[:, :2].reshape(2, 8, 1)
    np.testing.assert_array_equal(got, np.stack([wanted[0, indices[0]], wanted[1, indices[1]]]))


def test_a_batch_without_a_masked_patch_has_loss_zero_and_no_gradient():
    batch = {
        "mask_indices": np.zeros((1, 3), np.int32),
        "mask_weight": np.zeros((1, 3), np.float32),
    }
    branch = {"patches": jax.random.normal(jax.random.key(0), (2, 2, 4, 5))}
    objective = IbotObjective("dino", 5, 0.1, Constant(0.07), Sinkhorn())
    outcome, grads = run(objective, branch, branch, batch, {})
    assert outcome.loss == 0
    np.testing.assert_array_equal(grads["patches"], 0)
