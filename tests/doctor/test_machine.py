"""Checks of the machine, on invented machines and on this one."""

import socket

import pytest

from dino_jax.doctor import machine

JAX = ["jaxlib<=0.10.2,>=0.10.2", 'libtpu==0.0.42.*; extra == "tpu"', 'x>=1; extra == "cuda"']


def versions(**known):
    return known.get


@pytest.mark.parametrize(
    ("version", "level"), [("3.10.14", "FAIL"), ("3.11.0", "OK"), ("3.13.0rc1", "OK")]
)
def test_python_is_held_against_its_bound(version, level):
    result = machine.check_python(version, ">=3.11")
    assert result.level == level
    assert version in result.text and ">=3.11" in result.text


def test_packages_outside_their_bounds_and_missing_ones_are_named():
    bounds = ["jax<0.11,>=0.10.2", "optax<0.3,>=0.2.8", "grain>=0.2.18", 'pytest>=8; extra == "t"']
    result = machine.check_packages(bounds, versions(jax="0.9.1", grain="0.2.18"))
    assert result.level == "FAIL"
    assert result.text.splitlines() == [
        "jax 0.9.1 (needs <0.11,>=0.10.2)",
        "optax is missing (needs <0.3,>=0.2.8)",
    ]
    fit = machine.check_packages(bounds, versions(jax="0.10.4", optax="0.2.8", grain="0.3"))
    assert fit.level == "OK" and "jax 0.10.4" in fit.text


def test_without_an_installation_the_bounds_are_unknown():
    result = machine.check_packages(None, versions())
    assert (result.level, "not installed" in result.text) == ("WARN", True)
    assert "pip install -e" in result.fix


@pytest.mark.parametrize(
    ("installed", "platform", "level"),
    [
        (dict(jax="0.10.2", jaxlib="0.10.2"), "", "OK"),
        (dict(jax="0.10.2", jaxlib="0.10.2"), "tpu", "FAIL"),
        (dict(jax="0.10.2", jaxlib="0.10.2", libtpu="0.0.42.1"), "tpu", "OK"),
        (dict(jax="0.10.2", jaxlib="0.10.2", libtpu="0.0.41"), "", "FAIL"),
        (dict(jax="0.10.2", jaxlib="0.10.1", libtpu="0.0.42.1"), "tpu", "FAIL"),
    ],
)
def test_jaxlib_and_libtpu_must_go_with_jax(installed, platform, level):
    result = machine.check_jax_parts(JAX, versions(**installed), platform)
    assert result.level == level
    if level == "FAIL":
        assert result.fix == "pip install 'jax[tpu]==0.10.2'"


def test_device_files_of_tpus_make_a_tpu_expected(tmp_path):
    assert machine.expect_platform(tmp_path) == ""
    (tmp_path / "vfio").mkdir()
    (tmp_path / "vfio/vfio").touch()
    assert machine.expect_platform(tmp_path) == ""
    (tmp_path / "vfio/0").touch()
    assert machine.expect_platform(tmp_path) == "tpu"


def test_devices_of_another_platform_fail():
    good = machine.check_devices("tpu", "TPU v5 lite", 4, 16, 4, "tpu")
    assert good.level == "OK" and "16 x TPU v5 lite, 4 of them here" in good.text
    assert machine.check_devices("cpu", "cpu", 1, 1, 1, "").level == "OK"
    bad = machine.check_devices("cpu", "cpu", 1, 1, 1, "tpu")
    assert bad.level == "FAIL" and "expected tpu" in bad.text


def test_an_uneven_number_of_devices_is_a_warning():
    assert machine.check_devices("tpu", "TPU v4", 4, 12, 4, "tpu").level == "WARN"


def test_a_port_that_somebody_listens_on_fails():
    with socket.socket() as server:
        server.bind(("", 0))
        server.listen()
        port = server.getsockname()[1]
        taken = machine.check_port(port)
    assert taken.level == "FAIL" and f"{port} cannot be used" in taken.text
    assert "JAX_COORDINATOR_PORT" in taken.fix
    assert machine.check_port(port).level == "OK"
    assert machine.check_port(99999).level == "FAIL"


@pytest.mark.parametrize(
    ("times", "level", "text"),
    [
        ([100.0, 100.25, 100.0], "OK", "0.250 s apart (processes 0 and 1)"),
        ([103.5, 100.0], "WARN", "3.500 s apart (processes 1 and 0)"),
        ([0.0, 61.0], "FAIL", "61.000 s apart (processes 0 and 1)"),
    ],
)
def test_clocks_that_differ_are_named(times, level, text):
    result = machine.check_clocks(times)
    assert (result.level, result.text) == (level, text)
    assert bool(result.fix) == (level != "OK")
