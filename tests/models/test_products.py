"""Products with operands in bfloat16 and results in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.models.attention import attend
from dino_jax.models.products import (
    multiplies_bfloat16,
    rounded_attend,
    rounded_matmul,
    takes_rounded_attention,
)


def rounded(x: jax.Array) -> np.ndarray:
    return np.asarray(x.astype(jnp.bfloat16).astype(jnp.float32), np.float64)


def draw(*shapes: tuple[int, ...]) -> list[jax.Array]:
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


# One row, few and many; columns that blocks divide, and others; narrower and wider results.
@pytest.mark.parametrize("rows", [(1,), (3,), (2, 9, 5), (7, 30)], ids=str)
@pytest.mark.parametrize(
    ("dim", "out"), [(8, 5), (16, 24), (64, 32), (45, 35), (48, 1), (1, 8), (40, 33)]
)
def test_results_and_gradients_are_those_of_rounded_operands(rows, dim, out):
    x, kernel, gradient = draw((*rows, dim), (dim, out), (*rows, out))

    @jax.jit
    def run(x, kernel, gradient):
        y, backward = jax.vjp(rounded_matmul, x, kernel)
        return y, *backward(gradient)

    y, d_x, d_kernel = run(x, kernel, gradient)
    assert y.dtype == d_x.dtype == d_kernel.dtype == jnp.float32
    flat_x, flat_gradient = rounded(x).reshape(-1, dim), rounded(gradient).reshape(-1, out)
    expected = {
        "y": (y, (flat_x @ rounded(kernel)).reshape(y.shape)),
        "d_x": (d_x, (flat_gradient @ rounded(kernel).T).reshape(x.shape)),
        "d_kernel": (d_kernel, flat_x.T @ flat_gradient),
    }
    for name, (found, wanted) in expected.items():
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("batch", "tokens", "heads", "head_dim"),
    [(1, 2, 1, 8), (3, 2, 2, 16), (2, 17, 3, 8), (1, 37, 1, 64), (4, 64, 6, 32), (2, 5, 1, 24)],
)
def test_attention_is_near_that_of_float32(batch, tokens, heads, head_dim):
    """bfloat16 has 8 bits: a rounded operand is off by up to 1/256."""
    assert takes_rounded_attention(tokens, head_dim)
    operands = draw(*[(batch, tokens, heads, head_dim)] * 3)
    (gradient,) = draw((batch, tokens, heads * head_dim))

    def run(attend):
        def both(*operands):
            y, backward = jax.vjp(lambda *x: attend(*x)[0], *operands)
            return y, *backward(gradient)

        return jax.jit(both)(*operands)

    for found, wanted in zip(run(rounded_attend), run(attend), strict=True):
        assert found.dtype == jnp.float32
        error = jnp.linalg.norm(found - wanted) / jnp.linalg.norm(wanted)
        assert 0 < error < 1 / 64


def test_attention_of_one_token_or_of_odd_heads_is_left_to_float32():
    assert not takes_rounded_attention(1, 64)
    assert not takes_rounded_attention(37, 12)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("model name\t: X\nflags\t\t: fpu avx512f avx512_bf16 fsrm\n", True),
        ("flags\t\t: fpu amx_bf16\n", True),
        ("flags\t\t: fpu avx2 avx512_bf16x\n", False),
        ("Features\t: fp asimd bf16\n", False),
        ("", False),
    ],
)
def test_the_processor_says_what_it_multiplies(text, answer, tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text(text)
    assert multiplies_bfloat16(file) is answer


def test_a_system_without_that_file_has_no_such_products(tmp_path):
    assert not multiplies_bfloat16(tmp_path / "cpuinfo")
