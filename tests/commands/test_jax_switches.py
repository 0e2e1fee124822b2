"""No switch of JAX changes the numbers of a command."""

import enum

import jax
import pytest

from dino_jax.commands.jax_switches import NEEDED, ignore_switches

OTHER = {
    "jax_default_matmul_precision": "highest",
    "jax_default_prng_impl": "rbg",
    "jax_legacy_prng_key": "error",
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_random_seed_offset": 3,
}


def value_of(name: str) -> object:
    value = getattr(jax.config, name)
    return value.value if isinstance(value, enum.Enum) else value


@pytest.mark.parametrize("name", NEEDED)
def test_the_value_that_is_needed_is_the_usual_one_and_another_is_set_back(name, capsys):
    assert value_of(name) == NEEDED[name]
    other = OTHER.get(name, "log" if NEEDED[name] is None else not NEEDED[name])
    jax.config.update(name, other)
    try:
        ignore_switches({})
        assert value_of(name) == NEEDED[name]
        assert f": {name.upper()}={other}\n" in capsys.readouterr().err
    finally:
        jax.config.update(name, NEEDED[name])


def test_switches_leave_the_environment_before_jax_reads_it(capsys):
    kept = {
        "HOME": "/",
        "JAX_PLATFORMS": "cpu",
        "JAX_DEBUG_NANS": "0",
        "JAX_RANDOM_SEED_OFFSET": "0",
    }
    environment = kept | {"JAX_ENABLE_X64": "True", "JAX_DEFAULT_PRNG_IMPL": "rbg"}
    ignore_switches(environment)
    assert environment == kept
    assert capsys.readouterr().err.endswith(": JAX_DEFAULT_PRNG_IMPL=rbg, JAX_ENABLE_X64=True\n")
    ignore_switches(environment)
    assert capsys.readouterr().err == ""
