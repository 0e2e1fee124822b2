"""Traces of chosen steps."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from dino_jax.run.profile import Profile, check_profile


def run_steps(profile, steps):
    step = jax.jit(lambda x: jnp.sin(x) @ x)
    x = jnp.ones((64, 64))
    for number in steps:
        profile.before(number)
        x = step(x)
        profile.after(number, x)


def test_the_chosen_steps_leave_one_trace(tmp_path):
    profile = Profile((2, 3), tmp_path)
    run_steps(profile, [1])
    assert not (tmp_path / "profile").exists()
    run_steps(profile, [2, 3])
    (trace,) = tmp_path.glob("profile/plugins/profile/*/*.trace.json.gz")
    assert list(tmp_path.glob("profile/plugins/profile/*/*.xplane.pb"))
    names = [
        event.get("name", "")
        for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    ]
    assert any("dot" in name for name in names)
    run_steps(profile, [4, 5])
    assert len(list(tmp_path.glob("profile/plugins/profile/*"))) == 1


def test_a_run_that_ends_early_keeps_its_trace(tmp_path):
    profile = Profile((1, 9), tmp_path)
    run_steps(profile, [1, 2])
    profile.close()
    profile.close()
    assert list(tmp_path.glob("profile/plugins/profile/*/*.xplane.pb"))


def test_without_steps_there_is_no_trace(tmp_path):
    profile = Profile((), tmp_path)
    run_steps(profile, [1, 2])
    profile.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("steps", [(3,), (3, 2), (0, 2), (1, 2, 3)])
def test_steps_that_are_no_interval_are_an_error(tmp_path, steps):
    with pytest.raises(ValueError, match=r"must be \(\) or \(first, last\)"):
        check_profile(steps, tmp_path)


def test_a_remote_workdir_takes_no_trace():
    with pytest.raises(ValueError, match="local --workdir"):
        check_profile((1, 2), "gs://bucket/run")
    check_profile((), "gs://bucket/run")
