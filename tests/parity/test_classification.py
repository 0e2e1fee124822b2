"""k-NN votes and the training of linear classifiers against torch."""

import jax
import numpy as np
import pytest

import dino_jax
from dino_jax.devices.sharding import batch_sharding, make_mesh, replicated, shard_batch
from dino_jax.evaluation.knn import (
    class_votes,
    dino_weights,
    dinov2_weights,
    knn_accuracy,
    normalize_rows,
)
from dino_jax.evaluation.linear_features import dino_linear_features, dinov2_linear_features
from dino_jax.evaluation.linear_heads import Group, Heads, init_heads, make_head_step
from dino_jax.evaluation.linear_training import TrainingLength
from dino_jax.evaluation.search import find_nearest, local_mesh
from tests.saved_model import save_tiny_vit

torch = pytest.importorskip("torch")
CLASSES, TEMPERATURE = 12, 0.07


def test_votes_of_the_neighbours_are_those_of_torch():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(CLASSES, 16))
    labels, test_labels = rng.integers(0, CLASSES, 400), rng.integers(0, CLASSES, 150)
    train = normalize_rows(centers[labels] + rng.normal(size=(400, 16)))
    test = normalize_rows(centers[test_labels] + rng.normal(size=(150, 16)))
    similarity, index = (torch.from_numpy(test) @ torch.from_numpy(train).T).topk(50)
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(labels)[index], CLASSES)
    nearest = find_nearest(train, test, 50, local_mesh())
    for ours, theirs in (
        (dino_weights, (similarity / TEMPERATURE).exp()),
        (dinov2_weights, (similarity / TEMPERATURE).softmax(dim=1)),
    ):
        weights = np.asarray(ours(nearest.similarities, TEMPERATURE))
        for k in (5, 50):
            expected = (one_hot[:, :k] * theirs[:, :k, None]).sum(dim=1)
            actual = class_votes(weights[:, :k], labels[nearest.indices[:, :k]], CLASSES)
            np.testing.assert_allclose(actual, expected, rtol=1e-4)
            right = (
                expected.argsort(dim=1, descending=True) == torch.from_numpy(test_labels)[:, None]
            )
            top1 = 100 * right[:, 0].float().mean().item()
            found = knn_accuracy(train, labels, test, test_labels, k=(k,), temperature=TEMPERATURE)
            assert found[k].top1 == pytest.approx(top1)


def test_the_features_of_dino_are_interleaved_as_by_torch():
    cls, patches = torch.randn(4, 5), torch.randn(4, 7, 5)
    expected = torch.stack([cls, patches.mean(dim=1)], dim=2).flatten(1)
    outputs = [{"cls": cls.numpy(), "patches": patches.numpy()}]
    np.testing.assert_allclose(dino_linear_features(outputs, 1, True), expected, atol=1e-6)


@pytest.mark.parametrize("period", [1, 3])
def test_classifiers_are_trained_as_by_torch(tmp_path, period):
    """SGD with momentum and CosineAnnealingLR that moves every step, or once per epoch."""
    steps, batch_size, rate, group = 9, 8, 0.7, Group(2, True)
    model, mesh = dino_jax.load(save_tiny_vit(tmp_path)), make_mesh(1)
    heads = Heads((group,), (rate,), dinov2_linear_features, 3)
    state = init_heads(heads, 24, mesh)
    take_step = make_head_step(heads, model.network, mesh)
    variables = jax.device_put(model.variables, replicated(mesh))

    start = {name: np.array(x[0]) for name, x in state.parameters[group].items()}
    layer = torch.nn.Linear(start["weights"].shape[0], 3)
    layer.weight.data, layer.bias.data = (
        torch.from_numpy(start["weights"].T.copy()),
        torch.from_numpy(start["bias"]),
    )
    optimizer = torch.optim.SGD(layer.parameters(), rate, momentum=0.9, weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps // period)
    length, rng = TrainingLength(steps, period=period, score_every=steps), np.random.default_rng(0)
    for step in range(steps):
        batch = {
            "image": rng.integers(0, 256, (batch_size, 32, 32, 3)).astype(np.uint8),
            "label": rng.integers(0, 3, batch_size).astype(np.int32),
            "unreadable": np.full(batch_size, -1, np.int32),
        }
        outputs = model.intermediate(batch["image"], (-2, -1))
        inputs = torch.from_numpy(np.array(dinov2_linear_features(outputs, *group)))
        optimizer.zero_grad()
        target = torch.from_numpy(batch["label"]).long()
        torch.nn.functional.cross_entropy(layer(inputs), target).backward()
        optimizer.step()
        if (step + 1) % period == 0:
            schedule.step()
        sharded = shard_batch(batch, batch_sharding(mesh))
        state, _ = take_step(variables, state, sharded, np.float32(length.factor(step)))
    found = {name: np.asarray(x[0]) for name, x in state.parameters[group].items()}
    np.testing.assert_allclose(found["weights"].T, layer.weight.detach(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(found["bias"], layer.bias.detach(), rtol=0, atol=1e-4)
    assert np.abs(found["weights"] - start["weights"]).max() > 0.01
