"""The nearest rows are exactly those of a float64 comparison with all rows."""

import numpy as np
import pytest
from llvmlite.binding import get_host_cpu_features
from numba import njit

from dino_jax.search import scan
from dino_jax.search.codes import STEP, encode, unit_query, unit_rows
from dino_jax.search.engine import BLOCK, Part, search, search_many
from tests.search.vectors import catalogue, gauss

KINDS = {"catalogue": catalogue, "gauss": gauss}


def parts_of(vectors: np.ndarray, *ends: int) -> list[Part]:
    rows = unit_rows(vectors)
    return [Part(part, encode(part)) for part in np.split(rows, ends)]


def brute_force(vectors: np.ndarray, query: np.ndarray, k: int, allowed=None):
    """Rows and scores in float64, ties by row."""
    rows = unit_rows(vectors).astype(np.float64)
    lengths = np.sqrt((rows**2).sum(axis=1))
    scores = rows @ unit_query(query).astype(np.float64) / np.where(lengths > 0, lengths, 1)
    if allowed is not None:
        scores = np.where(allowed, scores, -np.inf)
    order = np.argsort(-scores, kind="stable")[:k]
    order = order[scores[order] > -np.inf]
    return order, scores[order]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [512, 67])
def test_the_ten_nearest_are_those_of_brute_force(kind, dim):
    vectors, queries = KINDS[kind](6000, dim, 0), KINDS[kind](6020, dim, 0)[-20:]
    parts = parts_of(vectors, 100, 4500)
    for query in (*queries, *vectors[:5]):
        rows, scores = brute_force(vectors, query, 10)
        found = search(parts, query, 10)
        assert found.proven
        np.testing.assert_array_equal(found.rows, rows)
        np.testing.assert_array_equal(found.scores, scores)


@pytest.mark.parametrize("kind", KINDS)
def test_the_float32_vectors_have_the_same_ten_nearest(kind):
    """Rounding to float16 moves a score by 1e-5 or so: neighbours that differ less may swap."""
    vectors, queries = KINDS[kind](6000, 512, 1), KINDS[kind](6050, 512, 1)[-50:]
    parts, recalls = parts_of(vectors), []
    exact = vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    for query in queries:
        scores = exact @ (query / np.linalg.norm(query.astype(np.float64)))
        found = search(parts, query, 10)
        tenth = np.sort(scores)[-10]
        recalls.append(np.mean(scores[found.rows] >= tenth - 1e-4))
    assert np.mean(recalls) == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_filter_that_keeps_one_percent_loses_nothing(kind):
    vectors, queries = KINDS[kind](5000, 96, 2), KINDS[kind](5010, 96, 2)[-10:]
    allowed = (np.random.default_rng(3).random(5000) < 0.01).astype(np.uint8)
    parts = parts_of(vectors, 1700)
    masks = np.split(allowed, [1700])
    for query, many in zip(queries, search_many(parts, queries, 10, masks), strict=True):
        rows, scores = brute_force(vectors, query, 10, allowed)
        for found in (search(parts, query, 10, masks), many):
            np.testing.assert_array_equal(found.rows, rows)
            np.testing.assert_array_equal(found.scores, scores)


def test_many_queries_on_four_devices_give_what_one_query_gives():
    vectors, queries = catalogue(3000, 64, 4), catalogue(3040, 64, 4)[-40:]
    parts = parts_of(vectors, 1, 2000)
    for query, found in zip(queries, search_many(parts, queries, 7), strict=True):
        alone = search(parts, query, 7)
        np.testing.assert_array_equal(found.rows, alone.rows)
        np.testing.assert_array_equal(found.scores, alone.scores)
        assert found.proven and BLOCK > 3000


def test_of_equal_rows_the_smaller_number_comes_first():
    one = gauss(1, 32, 5)
    vectors = np.concatenate([gauss(50, 32, 6), np.repeat(one, 100, axis=0)])
    parts = parts_of(vectors, 60, 61)
    assert search(parts, one[0], 5).rows.tolist() == [50, 51, 52, 53, 54]
    (many,) = search_many(parts, one, 5)
    assert many.rows.tolist() == [50, 51, 52, 53, 54]


@pytest.mark.parametrize("allowed", [0, 1, 3, 40])
def test_fewer_rows_than_asked_for_are_all_found(allowed):
    vectors, query = gauss(40, 16, 7), gauss(1, 16, 8)[0]
    mask = (np.arange(40) < allowed).astype(np.uint8)
    found = search(parts_of(vectors), query, 100, [mask])
    rows, scores = brute_force(vectors, query, 100, mask)
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_array_equal(found.scores, scores)
    assert len(found.rows) == allowed


def test_an_index_without_rows_finds_nothing():
    empty = np.zeros((0, 8), np.float32)
    assert search(parts_of(empty), np.ones(8), 3).rows.size == 0
    assert search_many(parts_of(empty), np.ones((2, 8)), 3)[1].rows.size == 0


def test_the_stored_errors_bound_what_the_codes_lose():
    rows = unit_rows(gauss(300, 33, 9))
    codes = encode(rows)
    exact = rows.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    decoded = codes.scales.astype(np.float64)[:, None] * codes.codes
    lost = np.linalg.norm(exact - decoded, axis=1)
    assert (codes.errors >= lost).all() and (codes.errors <= lost * 1.00001 + 1e-7).all()


def test_a_row_has_the_cosine_1_with_itself_and_no_other_is_nearer():
    """Rounding to float16 changes the length of a row by more than its neighbours are apart."""
    vectors = gauss(1, 48, 13) + 3e-3 * gauss(400, 48, 14)
    parts = parts_of(vectors)
    for row in range(0, 400, 20):
        found = search(parts, vectors[row], 1)
        assert found.rows == [row] and abs(found.scores[0] - 1) < 1e-6


def test_scores_are_the_same_in_any_order_of_summing():
    rows, query = unit_rows(gauss(20, 512, 10)), unit_query(gauss(1, 512, 11)[0])
    assert np.all(query.astype(np.float64) / STEP % 1 == 0)
    products = rows.astype(np.float64) * query.astype(np.float64)
    backwards = [sum(line[::-1].tolist()) for line in products]
    np.testing.assert_array_equal(np.add.accumulate(products, axis=1)[:, -1], backwards)


def test_rows_of_zeros_score_zero():
    vectors = np.concatenate([np.zeros((1, 12), np.float32), gauss(3, 12, 12)])
    query = -vectors[1] - vectors[2] - vectors[3]
    found = search(parts_of(vectors), query, 4)
    assert found.scores[found.rows.tolist().index(0)] == 0


@pytest.mark.parametrize("wrong", [np.zeros(8), np.full(8, np.nan), np.full(8, np.inf)])
def test_a_query_without_a_direction_is_refused(wrong):
    with pytest.raises(ValueError, match="a query needs finite numbers"):
        search(parts_of(gauss(5, 8, 0)), wrong, 1)


def test_a_query_of_another_width_and_k_of_0_are_refused():
    parts = parts_of(gauss(5, 8, 0))
    with pytest.raises(ValueError, match="has 9 numbers, rows have"):
        search(parts, np.ones(9), 1)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        search(parts, np.ones(8), 0)


def test_rows_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="the vector of row 1 has numbers that are not finite"):
        unit_rows(np.array([[1.0, 2], [np.nan, 1]]))


@pytest.mark.parametrize("form", scan.FORMS, ids=[form[0] or "plain" for form in scan.FORMS])
def test_every_processor_multiplies_to_the_same_number(form, monkeypatch):
    if form[0] and not get_host_cpu_features().get(form[0]):
        pytest.skip(f"this processor has no {form[0]}")
    monkeypatch.setattr(scan, "FORMS", (("", *form[1:]),))
    rng, dim = np.random.default_rng(0), 3 * scan.LANES
    codes = rng.integers(-127, 128, (3, dim), np.int8)
    codes[0] = -127
    query = np.where(np.arange(dim) % 2, codes[0], rng.integers(-127, 128, dim)).astype(np.int8)
    zeros, steps = np.zeros_like(codes), dim // scan.LANES
    product = njit(lambda codes, row, query, steps: scan.multiply(codes, row, query, steps))
    for row in range(3):
        found = product(codes, row, query, steps) - product(zeros, row, query, steps)
        assert found == codes[row].astype(int) @ query.astype(int)
