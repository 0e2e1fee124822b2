"""Position-embedding resize against recorded outputs of the official code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.models.position import antialiased_matrix, resize_position_embedding

TABLE = 0.5 * np.random.RandomState(5).standard_normal((1, 197, 384)).astype(np.float32)


@pytest.mark.parametrize("grid", [(6, 6), (24, 24), (10, 16), (7, 28), (14, 14), (30, 30)])
def test_bicubic_resize_equals_official(golden, grid):
    rows, columns = grid
    ours = resize_position_embedding(
        jnp.asarray(TABLE), (14, 14), grid, (16 * rows, 16 * columns), "bicubic"
    )
    expected = golden("v1/pos_interp")[f"out_{rows}x{columns}"]
    np.testing.assert_allclose(ours[..., :4], expected, rtol=0, atol=1e-5)


def test_a_square_image_keeps_the_table_and_an_oblong_one_on_the_same_grid_does_not():
    table = jnp.asarray(TABLE[:, :65, :8])
    same = resize_position_embedding(table, (8, 8), (8, 8), (71, 71), "bicubic")
    resampled = resize_position_embedding(table, (8, 8), (8, 8), (64, 71), "bicubic")
    np.testing.assert_array_equal(same, table)
    assert float(jnp.abs(resampled - table).max()) > 0


def test_an_oblong_table_is_kept_at_its_own_grid():
    table = jnp.asarray(TABLE[:, :33, :8])
    kept = resize_position_embedding(table, (4, 8), (4, 8), (64, 128), "bicubic")
    np.testing.assert_array_equal(kept, table)


@pytest.mark.parametrize("out_size", [3, 7, 11, 20])
def test_antialiased_matrix_equals_jax_image_resize(out_size):
    expected = jax.image.resize(jnp.eye(7), (out_size, 7), "cubic", antialias=True)
    np.testing.assert_allclose(antialiased_matrix(7, out_size), expected, rtol=0, atol=1e-6)
