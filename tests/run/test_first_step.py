"""What is counted of jax's compilations, and the line about the first step."""

import re

import jax
import jax.numpy as jnp

from dino_jax.run.first_step import Compilations, FirstStep


def test_programs_are_counted_once_and_no_more_after_close():
    counts, double = Compilations(), jax.jit(lambda x: x * 2)
    double(jnp.float32(1)).block_until_ready()
    known = counts.programs
    assert known >= 1 and counts.seconds > 0 and counts.from_cache == 0
    double(jnp.float32(2)).block_until_ready()
    assert counts.programs == known
    counts.close()
    jax.jit(lambda x: x * 3)(jnp.float32(1)).block_until_ready()
    assert counts.programs == known


def test_the_first_step_is_described_once():
    now = iter([100.0, 101.0, 101.5, 102.0, 109.0, 200.0, 201.0])
    first_step = FirstStep(clock=lambda: next(now))  # starts at 100
    assert first_step.end() is None  # no step yet
    with first_step.batch():  # from 101 to 101.5
        pass
    first_step.begin()  # at 102
    jax.jit(lambda x: x * 5)(jnp.float32(1)).block_until_ready()
    line = first_step.end()  # at 109
    times = re.match(
        r"first step  after 9.0 s: batch 0.5 s, trace (.*) s, compile (.*) s; 0 of \d+ programs",
        line,
    )
    assert abs(float(times[1]) + float(times[2]) - 7.0) < 0.11  # two rounded numbers
    with first_step.batch():
        first_step.begin()
    assert first_step.end() is None
    first_step.close()
