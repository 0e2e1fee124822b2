"""Evaluation functions against the same in torch, whose numbers the papers are made of."""

import numpy as np
import pytest

from dino_jax.evaluation.bilinear import rescale, resize
from dino_jax.evaluation.multi_scale import multi_scale_features
from dino_jax.evaluation.propagation import Propagation, decide, propagate_labels
from dino_jax.evaluation.whitening import gem
from dino_jax.visualize.attention import keep_mass

torch = pytest.importorskip("torch")
RNG = np.random.default_rng(0)


def to_torch(images: np.ndarray):
    """[B, H, W, C] to [B, C, H, W]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def from_torch(images) -> np.ndarray:
    return images.permute(0, 2, 3, 1).numpy()


def interpolate(images, **options):
    return torch.nn.functional.interpolate(images, mode="bilinear", align_corners=False, **options)


@pytest.mark.parametrize("shape", [(224, 168), (383, 512), (100, 149)])
def test_images_are_resized_as_torch_does(shape):
    images = RNG.normal(size=(1, *shape, 3)).astype(np.float32)
    for scale in (2**-0.5, 0.5):
        expected = from_torch(interpolate(to_torch(images), scale_factor=scale))
        np.testing.assert_allclose(rescale(images, scale), expected, rtol=0, atol=1e-5)
    # Where torch rounds a coordinate of some hundred pixels the other way: 4e-5 was seen.
    expected = from_torch(interpolate(to_torch(images), size=(130, 301)))
    np.testing.assert_allclose(resize(images, 130, 301), expected, rtol=0, atol=1e-4)


def test_multi_scale_features_are_those_of_torch():
    images = RNG.normal(size=(1, 45, 64, 3)).astype(np.float32)
    weights = RNG.normal(size=(3 * 16, 8)).astype(np.float32)

    def embed(batch):
        blocks = [np.mean(part, axis=(1, 2)) for part in np.array_split(batch, 16, axis=2)]
        return np.concatenate(blocks, axis=1) @ weights

    total = 0
    for scale in (1, 2**-0.5, 1 / 2):
        scaled = (
            to_torch(images) if scale == 1 else interpolate(to_torch(images), scale_factor=scale)
        )
        total = total + torch.from_numpy(embed(from_torch(scaled)))
    expected = (total / 3) / (total / 3).norm()
    for reference in (False, True):
        actual = multi_scale_features(embed, images, reference)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


def test_labels_are_propagated_as_in_torch():
    height, width, dim, classes, frames, radius = 8, 11, 16, 3, 4, 3
    target, sources = torch.randn(height * width, dim), torch.randn(frames, height * width, dim)
    labels = torch.rand(frames, classes, height, width)
    unit = torch.nn.functional.normalize
    weights = torch.exp(unit(sources, dim=2) @ unit(target, dim=1).T / 0.1)
    rows, columns = (torch.from_numpy(x) for x in np.divmod(np.arange(height * width), width))
    apart = torch.maximum((rows[:, None] - rows).abs(), (columns[:, None] - columns).abs())
    weights = (weights * (apart <= radius)).reshape(-1, height * width)
    smallest = torch.topk(weights, 5, dim=0).values[-1]
    weights = torch.where(weights < smallest, 0, weights)
    values = labels.permute(1, 0, 2, 3).reshape(classes, -1)
    expected = (values @ (weights / weights.sum(dim=0))).reshape(classes, height, width)
    actual = propagate_labels(
        target.reshape(height, width, dim).numpy(),
        sources.reshape(frames, height, width, dim).numpy(),
        from_torch(labels),
        Propagation(radius=radius),
    )
    np.testing.assert_allclose(actual, expected.permute(1, 2, 0), rtol=0, atol=1e-5)
    large = interpolate(expected[None], scale_factor=8.0)[0]
    low, high = large.amin(dim=(1, 2), keepdim=True), large.amax(dim=(1, 2), keepdim=True)
    wanted = ((large - low) / (high - low)).argmax(dim=0).numpy()
    assert np.mean(np.asarray(decide(actual, 8)) != wanted) < 1e-3  # ties of two objects


def test_gem_and_the_attention_mask_are_those_of_torch():
    patches = RNG.normal(size=(2, 9, 5)).astype(np.float32)
    clamped = torch.from_numpy(patches).clamp(min=1e-6)
    np.testing.assert_allclose(gem(patches), clamped.pow(4).mean(dim=1).pow(1 / 4), rtol=1e-5)
    attention = torch.rand(6, 900) ** 8
    values, order = torch.sort(attention)
    kept = torch.cumsum(values / values.sum(dim=1, keepdim=True), dim=1) > 1 - 0.6
    kept = torch.gather(kept, 1, torch.argsort(order)).reshape(6, 30, 30)
    np.testing.assert_array_equal(keep_mass(attention.reshape(6, 30, 30).numpy(), 0.6), kept)
