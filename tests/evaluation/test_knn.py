"""The weighted k-NN against a plain loop over the official formula."""

import numpy as np
import pytest

from dino_jax.evaluation import knn
from dino_jax.evaluation.knn import knn_accuracy

TEMPERATURE = 0.07


def random_data(seed, train=60, test=23, classes=5, dim=8):
    """Features around a random center for each class, of very different lengths."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(classes, dim))

    def draw(count):
        labels = rng.integers(0, classes, count)
        features = centers[labels] + 1.5 * rng.normal(size=(count, dim))
        return (features * rng.uniform(0.1, 30, (count, 1))).astype(np.float32), labels

    return *draw(train), *draw(test)


def plain_knn(train, train_labels, test, test_labels, k):
    """One image and one neighbour at a time, in float64."""
    hits = 0
    for image, label in zip(test.astype(np.float64), test_labels, strict=True):
        cosine = [x @ image / np.linalg.norm(x) / np.linalg.norm(image) for x in np.float64(train)]
        votes = {}
        for index in sorted(range(len(train)), key=lambda i: -cosine[i])[:k]:
            name = int(train_labels[index])
            votes[name] = votes.get(name, 0.0) + np.exp(cosine[index] / TEMPERATURE)
        hits += max(votes, key=votes.get) == label
    return 100 * hits / len(test)


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_equals_a_plain_loop(seed):
    data = random_data(seed)
    sizes = (1, 3, 10, 20, 60)
    expected = {k: plain_knn(*data, k) for k in sizes}
    assert len(set(expected.values())) > 1
    assert knn_accuracy(*data, k=sizes, temperature=TEMPERATURE) == pytest.approx(expected)


def test_tiles_make_no_difference(monkeypatch):
    data = random_data(3)
    whole = knn_accuracy(*data, k=(5,), temperature=TEMPERATURE)
    monkeypatch.setattr(knn, "TEST_TILE", 4)
    assert knn_accuracy(*data, k=(5,), temperature=TEMPERATURE) == whole


def test_near_neighbours_count_more_than_many():
    train = np.array([[1, 0], [0.7, 0.7], [0.7, 0.7]], np.float32)
    labels, test = np.array([0, 1, 1]), np.array([[1, 0.05]], np.float32)
    accuracy = knn_accuracy(train, labels, test, np.array([0]), k=(3,), temperature=TEMPERATURE)
    assert accuracy == {3: 100.0}
    accuracy = knn_accuracy(train, labels, test, np.array([0]), k=(3,), temperature=100.0)
    assert accuracy == {3: 0.0}


def test_a_class_without_training_images_is_never_right():
    data = random_data(4)
    unseen = np.full_like(data[3], 17)
    assert knn_accuracy(*data[:3], unseen, k=(5,), temperature=TEMPERATURE) == {5: 0.0}


@pytest.mark.parametrize("k", [(), (0,), (61,), (10, 100)])
def test_a_k_out_of_range_is_an_error(k):
    with pytest.raises(ValueError, match=r"between 1 and the number of training images \(60\)"):
        knn_accuracy(*random_data(0), k=k, temperature=TEMPERATURE)


def test_missing_images_or_labels_are_errors():
    train, train_labels, test, test_labels = random_data(0)
    with pytest.raises(ValueError, match="60 train, 0 test"):
        knn_accuracy(train, train_labels, test[:0], test_labels[:0], k=(1,), temperature=1.0)
    unlabeled = np.full_like(test_labels, -1)
    with pytest.raises(ValueError, match="a label for every image"):
        knn_accuracy(train, train_labels, test, unlabeled, k=(1,), temperature=1.0)
