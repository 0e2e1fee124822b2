"""Linear classifiers: what they see, and how they are trained, against plain NumPy."""

from typing import Any

import jax
import numpy as np
import pytest

import dino_jax
from dino_jax.devices.sharding import batch_sharding, make_mesh, replicated, shard_batch
from dino_jax.evaluation.accuracy import rank_of
from dino_jax.evaluation.features import LabeledFeatures
from dino_jax.evaluation.linear_features import (
    dino_linear_features,
    dinov2_linear_features,
    pool_outputs,
    unpool_outputs,
)
from dino_jax.evaluation.linear_heads import (
    Group,
    Head,
    Heads,
    init_heads,
    make_head_step,
    score_heads,
)
from dino_jax.evaluation.linear_training import TrainingLength, train_heads
from tests.saved_model import save_tiny_vit

CLASSES, WIDTH, BATCH = 3, 24, 8
GROUPS = (Group(1, False), Group(1, True), Group(2, False), Group(2, True))
RATES = (0.5, 2.0)


def random_outputs(blocks: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        {
            "cls": rng.normal(size=(4, 5)).astype(np.float32),
            "patches": rng.normal(size=(4, 6, 5)).astype(np.float32),
        }
        for _ in range(blocks)
    ]


def test_dino_puts_the_mean_between_the_numbers_of_the_cls_token():
    outputs = random_outputs(3)
    cls, mean = outputs[-1]["cls"], outputs[-1]["patches"].mean(axis=1)
    found = np.asarray(dino_linear_features(outputs, 1, True))
    np.testing.assert_allclose(found[:, 0::2], cls, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[:, 1::2], mean, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(
        dino_linear_features(outputs, 2, False),
        np.concatenate([outputs[1]["cls"], outputs[2]["cls"]], axis=1),
    )
    with pytest.raises(ValueError, match="only with one block, got 2"):
        dino_linear_features(outputs, 2, True)


def test_dinov2_puts_the_mean_of_the_last_block_at_the_end():
    outputs = random_outputs(3)
    mean = outputs[-1]["patches"].mean(axis=1)
    wanted = np.concatenate([outputs[1]["cls"], outputs[2]["cls"], mean], axis=1)
    np.testing.assert_allclose(dinov2_linear_features(outputs, 2, True), wanted, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(dinov2_linear_features(outputs, 2, False), wanted[:, :10])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return dino_jax.load(save_tiny_vit(tmp_path_factory.mktemp("run"), width=WIDTH))


def draw_images(seed: int, count: int = BATCH) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count).astype(np.int32)
    images = rng.integers(0, 180, (count, 32, 32, 3))
    images[np.arange(count), :, :, labels] += 70
    return {
        "image": images.astype(np.uint8),
        "label": labels,
        "unreadable": np.full(count, -1, np.int32),
    }


def test_pooled_outputs_give_the_same_features(model):
    images = draw_images(0)["image"]
    outputs = model.intermediate(images, (-2, -1))
    pooled = pool_outputs(model.network, model.variables, images, 2)
    assert pooled.shape == (BATCH, 3, WIDTH)
    for group in GROUPS:
        np.testing.assert_allclose(
            dinov2_linear_features(unpool_outputs(pooled), *group),
            dinov2_linear_features(outputs, *group),
            rtol=0,
            atol=1e-5,
        )


def plain_training(
    model, group: Group, rate: float, start: Any, length: TrainingLength, steps: int
):
    """SGD with momentum 0.9 in float64, as torch does it, on one classifier."""
    weights, bias = (np.asarray(start[name], np.float64) for name in ("weights", "bias"))
    speed_weights, speed_bias = np.zeros_like(weights), np.zeros_like(bias)
    for step in range(steps):
        batch = draw_images(step)
        outputs = model.intermediate(batch["image"], (-2, -1))
        x = np.asarray(dinov2_linear_features(outputs, *group), np.float64)
        logits = x @ weights + bias
        error = np.exp(logits - logits.max(axis=1, keepdims=True))
        error /= error.sum(axis=1, keepdims=True)
        error -= np.eye(CLASSES)[batch["label"]]
        speed_weights = 0.9 * speed_weights + x.T @ error / BATCH
        speed_bias = 0.9 * speed_bias + error.mean(axis=0)
        now = rate * length.factor(step)
        weights, bias = weights - now * speed_weights, bias - now * speed_bias
    return weights, bias


def test_all_classifiers_learn_as_each_alone_with_plain_sgd(model):
    heads = Heads(GROUPS, RATES, dinov2_linear_features, CLASSES)
    mesh, length, steps = make_mesh(1), TrainingLength(10, period=1, score_every=10), 5
    variables = jax.device_put(model.variables, replicated(mesh))
    state = init_heads(heads, WIDTH, mesh)
    start = jax.tree.map(np.asarray, state.parameters)
    assert np.std(start[GROUPS[3]]["weights"]) == pytest.approx(0.01, rel=0.1)
    take_step = make_head_step(heads, model.network, mesh)
    for step in range(steps):
        batch = shard_batch(draw_images(step), batch_sharding(mesh))
        state, _ = take_step(variables, state, batch, np.float32(length.factor(step)))
    for group in GROUPS:
        for number, rate in enumerate(RATES):
            own = {name: value[number] for name, value in start[group].items()}
            weights, bias = plain_training(model, group, rate, own, length, steps)
            found = jax.tree.map(lambda x, i=number: np.asarray(x[i]), state.parameters[group])
            np.testing.assert_allclose(found["weights"], weights, rtol=0, atol=1e-4)
            np.testing.assert_allclose(found["bias"], bias, rtol=0, atol=1e-4)
            assert np.abs(weights - own["weights"]).max() > 0.01


def test_maes_classifier_learns_with_lars_on_standardized_tokens(model):
    """torch's BatchNorm1d without affine, epsilon 1e-6, and LARS, in float64."""
    group, rate, mesh = Group(1, False), 2.0, make_mesh(1)
    heads = Heads((group,), (rate,), dinov2_linear_features, CLASSES, True, "lars")
    length = TrainingLength(10, period=1, score_every=10, warmup_steps=3)
    variables = jax.device_put(model.variables, replicated(mesh))
    state = init_heads(heads, WIDTH, mesh)
    start = jax.tree.map(lambda x: np.asarray(x[0], np.float64), state.parameters[group])
    weights, bias = start["weights"], start["bias"]
    speed_weights, speed_bias = np.zeros_like(weights), np.zeros_like(bias)
    running_mean, running_variance = np.zeros(WIDTH), np.ones(WIDTH)
    take_step = make_head_step(heads, model.network, mesh)
    for step in range(5):
        batch = draw_images(step)
        x = np.asarray(model(batch["image"])["cls"], np.float64)
        running_mean = 0.9 * running_mean + 0.1 * x.mean(axis=0)
        running_variance = 0.9 * running_variance + 0.1 * x.var(axis=0, ddof=1)
        x = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-6)
        logits = x @ weights + bias
        error = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        error -= np.eye(CLASSES)[batch["label"]]
        gradient = x.T @ error / BATCH
        trust = 0.001 * np.linalg.norm(weights) / np.linalg.norm(gradient)
        speed_weights = 0.9 * speed_weights + trust * gradient
        speed_bias = 0.9 * speed_bias + error.mean(axis=0)
        now = rate * min(step / 3, 0.5 * (1 + np.cos(np.pi * max(step - 3, 0) / 7)))
        weights, bias = weights - now * speed_weights, bias - now * speed_bias
        sharded = shard_batch(batch, batch_sharding(mesh))
        state, _ = take_step(variables, state, sharded, np.float32(length.factor(step)))
    np.testing.assert_allclose(state.parameters[group]["weights"][0], weights, rtol=0, atol=2e-6)
    np.testing.assert_allclose(state.parameters[group]["bias"][0], bias, rtol=0, atol=1e-4)
    np.testing.assert_allclose(state.statistics[group]["mean"], running_mean, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        state.statistics[group]["variance"], running_variance, rtol=1e-4, atol=1e-6
    )
    assert np.abs(weights - start["weights"]).max() > 1e-4
    test = draw_images(99, 40)
    pooled = np.asarray(pool_outputs(model.network, model.variables, test["image"], 1))
    (score,) = score_heads(heads, state, pooled, test["label"]).values()
    x = (pooled[:, 0] - running_mean) / np.sqrt(running_variance + 1e-6)
    wanted = 100 * np.mean((x @ weights + bias).argmax(axis=1) == test["label"])
    assert score.top1 == pytest.approx(wanted)


def test_scores_are_the_accuracy_of_every_classifier(model):
    heads = Heads(GROUPS[:2], RATES, dinov2_linear_features, CLASSES)
    state = init_heads(heads, WIDTH, make_mesh(1))
    test = draw_images(99, 40)
    pooled = np.asarray(pool_outputs(model.network, model.variables, test["image"], 1))
    scores = score_heads(heads, state, pooled, test["label"])
    assert set(scores) == {Head(group, rate) for group in GROUPS[:2] for rate in RATES}
    for number, rate in enumerate(RATES):
        weights = np.asarray(state.parameters[GROUPS[1]]["weights"])[number]
        logits = pooled.reshape(40, -1) @ weights  # one cls token, then the mean
        wanted = 100 * np.mean(logits.argmax(axis=1) == test["label"])
        assert scores[Head(GROUPS[1], rate)].top1 == pytest.approx(wanted)


def test_training_learns_and_names_what_could_not_be_read(model):
    heads = Heads(GROUPS[2:3], (0.5,), dinov2_linear_features, CLASSES)
    test = draw_images(99, 40)
    pooled = np.asarray(pool_outputs(model.network, model.variables, test["image"], 2))
    closed = []

    def stream():
        try:
            for step in range(10**6):
                batch = draw_images(step)
                batch["unreadable"][0] = 17 if step == 29 else -1
                yield batch
        finally:
            closed.append(True)

    length = TrainingLength(30, period=10, score_every=10)
    scores, lost = train_heads(
        model, heads, length, stream(), LabeledFeatures(pooled, test["label"]), make_mesh(1)
    )
    assert [score.step for score in scores] == [10, 20, 30]
    accuracy = scores[-1].accuracies[Head(GROUPS[2], 0.5)]
    assert accuracy.top1 > 60.0
    np.testing.assert_array_equal(lost, [17])
    assert closed == [True]


def test_the_learning_rate_falls_along_a_cosine_by_epoch_or_by_step():
    by_step = TrainingLength(8, period=1, score_every=8)
    wanted = [0.5 * (1 + np.cos(np.pi * step / 8)) for step in range(8)]
    np.testing.assert_allclose([by_step.factor(step) for step in range(8)], wanted)
    by_epoch = TrainingLength(8, period=4, score_every=4)
    np.testing.assert_allclose([by_epoch.factor(step) for step in range(8)], [1.0] * 4 + [0.5] * 4)


def test_a_classifier_that_has_diverged_is_never_right():
    scores = np.array([[np.nan, np.nan, np.nan], [0.0, np.nan, 1.0]])
    assert np.all(np.asarray(rank_of(scores, np.array([0, 2]))) > 0)
