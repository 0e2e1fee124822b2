"""Switches of JAX that give other numbers or stop a step: every command ignores them, and says so.

A run is the same wherever it is started, so what changes its numbers stands in its config. Imports
no jax: a switch is taken out of the environment before jax reads it, from input workers as well.
"""

import os
import sys
from collections.abc import MutableMapping
from typing import Any

# Name in jax.config -> the value that all numbers of this package are made with.
NEEDED: dict[str, Any] = {
    "jax_allow_f16_reductions": True,
    "jax_check_tracer_leaks": False,
    "jax_debug_infs": False,
    "jax_debug_key_reuse": False,
    "jax_debug_nans": False,  # steps that are not finite are skipped and counted
    "jax_default_matmul_precision": None,  # layers name theirs, see config.network.dtype
    "jax_default_prng_impl": "threefry2x32",
    "jax_disable_jit": False,
    "jax_enable_checks": False,
    "jax_enable_custom_prng": False,
    "jax_enable_x64": False,
    "jax_high_dynamic_range_gumbel": False,
    "jax_legacy_prng_key": "allow",
    "jax_no_execution": False,
    "jax_no_tracing": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_random_seed_offset": 0,
    "jax_softmax_custom_jvp": False,
    "jax_threefry_partitionable": True,
    "jax_transfer_guard": None,
    "jax_transfer_guard_device_to_device": None,
    "jax_transfer_guard_device_to_host": None,
    "jax_transfer_guard_host_to_device": None,
}
_TRUE, _FALSE = ("y", "yes", "t", "true", "on", "1"), ("n", "no", "f", "false", "off", "0")


def ignore_switches(environ: MutableMapping[str, str] = os.environ) -> None:
    """Sets all of them to what is needed; one line on stderr names those that were not."""
    ignored = [f"{name.upper()}={environ.pop(name.upper())}" for name in _set_in(environ)]
    if "jax" in sys.modules:
        import jax

        for name, value in NEEDED.items():
            given = getattr(jax.config, name, value)
            if getattr(given, "value", given) != value:
                jax.config.update(name, value)
                if not any(x.startswith(f"{name.upper()}=") for x in ignored):
                    ignored.append(f"{name.upper()}={getattr(given, 'value', given)}")
    if ignored:
        print(
            f"note: ignored, as it would change numbers or stop a step: {', '.join(ignored)}",
            file=sys.stderr,
        )


def _set_in(environ: MutableMapping[str, str]) -> list[str]:
    """The switches that the environment sets to another value."""
    return [
        name
        for name, value in NEEDED.items()
        if (text := environ.get(name.upper())) is not None and _read(text, value) != value
    ]


def _read(text: str, like: Any) -> Any:
    """The value that jax reads from a text."""
    if isinstance(like, bool):
        known = dict.fromkeys(_TRUE, True) | dict.fromkeys(_FALSE, False)
        return known.get(text.lower(), not like)
    if like is None:
        return text or None
    return type(like)(text) if not isinstance(like, int) or text.lstrip("-").isdigit() else text
