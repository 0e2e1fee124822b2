"""The weighted k-NN against a plain loop over the official formula."""

import jax
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from dino_jax.devices.sharding import batch_sharding
from dino_jax.evaluation import search
from dino_jax.evaluation.accuracy import rank_of
from dino_jax.evaluation.knn import (
    class_votes,
    dino_weights,
    dinov2_weights,
    knn_accuracy,
    leave_one_out_accuracy,
    normalize_rows,
)
from dino_jax.evaluation.search import find_nearest, local_mesh

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


def top1(*data, k, temperature=TEMPERATURE, **options):
    accuracy = knn_accuracy(*data, k=k, temperature=temperature, **options)
    return {size: value.top1 for size, value in accuracy.items()}


@pytest.mark.parametrize("convention", ["dino", "dinov2"])
@pytest.mark.parametrize("seed", range(3))
def test_accuracy_equals_a_plain_loop(seed, convention):
    data = random_data(seed)
    sizes = (1, 3, 10, 20, 60)
    expected = {k: plain_knn(*data, k) for k in sizes}
    assert len(set(expected.values())) > 1
    assert top1(*data, k=sizes, convention=convention) == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 7, 40])
def test_accuracy_equals_that_of_scikit_learn(k):
    """Whose distances d of rows of length 1 are similarities s = 1 - d^2 / 2."""
    train, train_labels, test, test_labels = random_data(5, train=300, test=100, classes=12)
    reference = KNeighborsClassifier(
        k, algorithm="brute", weights=lambda d: np.exp((1 - d**2 / 2) / TEMPERATURE)
    )
    reference.fit(normalize_rows(train), train_labels)
    probabilities = reference.predict_proba(normalize_rows(test))
    own = probabilities[np.arange(100), test_labels]
    rank = np.sum(probabilities > own[:, None], axis=1)
    wanted = [100 * np.mean((rank < n) & (own > 0)) for n in (1, 5)]
    found = knn_accuracy(train, train_labels, test, test_labels, k=(k,), temperature=TEMPERATURE)
    assert found[k] == pytest.approx(wanted)


def official_votes(train, train_labels, test, k, classes):
    """DINO's classifier, image by image: one-hot rows of the neighbours times exp(s / T)."""
    votes = np.zeros((len(test), classes))
    for row, image in enumerate(test):
        similarity = train @ image
        for index in np.argsort(-similarity, kind="stable")[:k]:
            votes[row] += np.eye(classes)[train_labels[index]] * np.exp(
                similarity[index] / TEMPERATURE
            )
    return votes


def test_votes_are_those_of_both_papers():
    data = random_data(6)
    train, test = normalize_rows(data[0]), normalize_rows(data[2])
    nearest = find_nearest(train, test, 20, local_mesh())
    labels = data[1][nearest.indices]
    dino = dino_weights(nearest.similarities, TEMPERATURE)
    wanted = official_votes(train.astype(np.float64), data[1], test.astype(np.float64), 10, 5)
    np.testing.assert_allclose(class_votes(dino[:, :10], labels[:, :10], 5), wanted, rtol=1e-4)
    # DINOv2 scales by the sum over all 20 that were retrieved.
    dinov2 = dinov2_weights(nearest.similarities, TEMPERATURE)
    total = np.exp(nearest.similarities.astype(np.float64) / TEMPERATURE).sum(axis=1)
    wanted /= total[:, None]
    np.testing.assert_allclose(class_votes(dinov2[:, :10], labels[:, :10], 5), wanted, rtol=1e-4)


@pytest.mark.parametrize(("query_tile", "tile"), [(4, 3), (7, 8), (1024, 5), (5, 8192)])
def test_neighbours_are_those_of_a_full_sort_whatever_the_tiles(monkeypatch, query_tile, tile):
    monkeypatch.setattr(search, "QUERY_TILE", query_tile)
    monkeypatch.setattr(search, "TILE", tile)
    # Whole numbers: float32 is exact, and there are many ties, of which the first row is nearer.
    rng = np.random.default_rng(0)
    rows = rng.integers(-2, 3, (61, 4)).astype(np.float32)
    queries = rng.integers(-2, 3, (23, 4)).astype(np.float32)
    similarity = queries @ rows.T
    for k in (1, 10, 61):
        found = find_nearest(rows, queries, k, local_mesh())
        wanted = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(found.indices, wanted)
        np.testing.assert_array_equal(
            found.similarities, np.take_along_axis(similarity, wanted, axis=1)
        )


def test_the_similarities_of_all_rows_are_never_in_memory_together():
    mesh, count = local_mesh(), 2**20
    rows = jax.ShapeDtypeStruct((count, 8), np.float32, sharding=batch_sharding(mesh))
    queries = jax.ShapeDtypeStruct((search.QUERY_TILE, 8), np.float32)
    program = search._search.lower(
        rows, queries, k=10, count=count, tile=search.TILE, mesh=mesh
    ).compile()
    tile_bytes = 4 * search.QUERY_TILE * search.TILE
    all_bytes = 4 * search.QUERY_TILE * count // mesh.size
    assert program.memory_analysis().temp_size_in_bytes < 5 * tile_bytes < all_bytes / 6


def test_more_neighbours_than_rows_are_an_error():
    with pytest.raises(ValueError, match=r"number of rows \(3\), got 4"):
        find_nearest(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32), 4, local_mesh())


def test_of_equal_scores_the_smaller_class_comes_first():
    scores = np.array([[1.0, 3.0, 3.0, 0.0]] * 4)
    np.testing.assert_array_equal(rank_of(scores, np.arange(4)), [2, 0, 1, 3])


def test_a_class_without_votes_is_not_among_the_first_five():
    train = np.eye(6, dtype=np.float32)
    found = knn_accuracy(
        train, np.arange(6), train, np.roll(np.arange(6), 1), k=(1, 6), temperature=TEMPERATURE
    )
    assert found[1].top5 == 0.0
    assert found[6].top5 > 0.0


def test_near_neighbours_count_more_than_many():
    train = np.array([[1, 0], [0.7, 0.7], [0.7, 0.7]], np.float32)
    labels, test = np.array([0, 1, 1]), np.array([[1, 0.05]], np.float32)
    assert top1(train, labels, test, np.array([0]), k=(3,)) == {3: 100.0}
    assert top1(train, labels, test, np.array([0]), k=(3,), temperature=100.0) == {3: 0.0}


def test_a_class_without_training_images_is_never_right():
    data = random_data(4)
    unseen = np.full_like(data[3], 17)
    assert top1(*data[:3], unseen, k=(5,)) == {5: 0.0}


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


def test_leave_one_out_is_k_nn_of_each_image_among_the_others():
    train, labels, *_ = random_data(3)
    found = leave_one_out_accuracy(train, labels, k=(1, 5), temperature=TEMPERATURE)
    for k in (1, 5):
        hits = []
        for i in range(len(train)):
            others = np.arange(len(train)) != i
            one = (train[others], labels[others], train[[i]], labels[[i]])
            hits.append(knn_accuracy(*one, k=(k,), temperature=TEMPERATURE)[k].top1)
        assert found[k].top1 == pytest.approx(np.mean(hits))


def test_an_image_is_left_out_also_among_its_copies():
    features = np.repeat(np.eye(2, 4, dtype=np.float32), 5, axis=0)
    labels = np.repeat([0, 1], 5)
    found = leave_one_out_accuracy(features, labels, k=(1, 3), temperature=TEMPERATURE)
    assert [found[k].top1 for k in (1, 3)] == [100.0, 100.0]
    for k, message in (((10,), r"other images \(9\)"), ((), "every k must be")):
        with pytest.raises(ValueError, match=message):
            leave_one_out_accuracy(features, labels, k=k, temperature=TEMPERATURE)
