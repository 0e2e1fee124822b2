"""Names of slices, and libtpu where it is missing, in use, or does not know a slice."""

import os
import sys

import jax
import pytest
from jax.experimental import topologies

from dino_jax.devices import libtpu_lock
from dino_jax.devices.libtpu_lock import Holder, find_lock
from dino_jax.plan import topology
from dino_jax.plan.topology import CHIPS, open_slice, parse_topology


def test_a_slice_is_a_chip_and_a_shape():
    assert parse_topology("v5e:4x8") == (CHIPS["v5e"], (4, 8))
    assert parse_topology("v5p:2x2x1") == (CHIPS["v5p"], (2, 2, 1))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("v5litepod-16", "is not a slice; a slice is a chip and its shape, such as v5e:4x4"),
        ("", "is not a slice"),
        ("v5e:16", "is not a slice"),
        ("v9:4x4", "unknown chip 'v9' in --topology 'v9:4x4'; known: ['v4', 'v5e', 'v5p', 'v6e'"),
        ("v5p:4x4", "a v5p slice has 3 axes, got --topology 'v5p:4x4'; for example v5p:4x4x4"),
        ("v6e:2x2x2", "a v6e slice has 2 axes"),
        ("v5e:0x4", "a v5e slice has 2 axes"),
    ],
)
def test_what_is_no_slice_is_an_error_that_says_what_one_is(name, words):
    with pytest.raises(ValueError) as caught:
        parse_topology(name)
    assert words in str(caught.value)


@pytest.fixture
def libtpu(monkeypatch):
    """libtpu is there but raises what the test says."""

    def install(message):
        def refuse(*_, **__):
            raise jax.errors.JaxRuntimeError(message)

        monkeypatch.setitem(sys.modules, "libtpu", type(sys)("libtpu"))
        monkeypatch.setattr(topologies, "get_topology_desc", refuse)

    return install


def test_without_libtpu_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    with pytest.raises(OSError, match=r"\(libtpu\) is not installed: pip install -e '.\[tpu\]'"):
        open_slice("v5e:4x4")


def test_a_shape_that_libtpu_does_not_know_is_an_error(libtpu):
    libtpu("INVALID_ARGUMENT: Topology layout is not divisible\nand more")
    with pytest.raises(ValueError, match=r"no slice 'v5e:3x5': INVALID_ARGUMENT.*divisible$"):
        open_slice("v5e:3x5")


LOCKED = "ABORTED: Internal error when accessing libtpu multi-process lockfile."


def test_a_held_lock_names_its_owner(libtpu, monkeypatch, tmp_path):
    lock = tmp_path / "libtpu_lockfile"
    lock.touch()
    holders = [Holder(4711, "python train.py"), Holder(os.getpid(), "this one")]
    monkeypatch.setattr(libtpu_lock, "find_holders", lambda _: holders)
    monkeypatch.setattr(topology, "find_lock", lambda: find_lock(lock))
    libtpu(LOCKED)
    with pytest.raises(OSError) as caught:
        open_slice("v5e:4x4")
    message = str(caught.value)
    assert "held by process 4711 (python train.py);" in message and "\n" not in message
    assert "ALLOW_MULTIPLE_LIBTPU_LOAD=1" in message


def test_a_lock_without_an_owner_keeps_the_words_of_libtpu(libtpu, monkeypatch, tmp_path):
    monkeypatch.setattr(topology, "find_lock", lambda: find_lock(tmp_path / "none"))
    libtpu(LOCKED)
    with pytest.raises(OSError, match="cannot be loaded: ABORTED"):
        open_slice("v5e:4x4")
