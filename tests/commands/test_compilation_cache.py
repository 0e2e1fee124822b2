"""Compiled programs are found by the next start, in a folder that cannot grow or harm."""

import json
import os
import platform
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import pytest
from etils import epath
from jax._src.lib import xla_client  # pyright: ignore[reportPrivateImportUsage]

from dino_jax.commands.compilation_cache import keep_programs, tidy
from dino_jax.workdir.paths import absolute_path

KEPT = "jax_compilation_cache_dir"

# Compiles two programs on one device; prints where they are kept and how many were found.
START = """
import json, sys
import dino_jax
from dino_jax.commands.compilation_cache import keep_programs
import jax
found = []
jax.monitoring.register_event_listener(lambda name, **_: found.append(name))
line = keep_programs(*sys.argv[1:])
one, two = jax.jit(lambda x: x + 1), jax.jit(lambda x: x * x)
assert float(two(one(jax.numpy.float32(2)))) == 9
print(json.dumps([line, sum(name.endswith("cache_hits") for name in found)]))
"""


def start(cache: Path, *arguments: str, **environment: str) -> tuple[str, int]:
    """A process on one CPU device whose user has the cache folder `cache`; nothing on stderr."""
    cleared = {"XLA_FLAGS": "", "TF_CPP_MIN_LOG_LEVEL": "3", "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", START, *arguments],
        env=os.environ | cleared | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    line, found = json.loads(done.stdout)
    return line, found


def programs(folder: Path) -> list[Path]:
    return sorted(folder.glob("*-cache"))


def test_the_next_start_finds_all_programs_but_those_that_a_crash_has_torn(tmp_path):
    folder = tmp_path / "dino_jax/compiled"
    assert start(tmp_path) == (f"programs in {folder}", 0)
    made = programs(folder)
    assert len(made) >= 2
    whole = made[0].read_bytes()
    made[0].write_bytes(whole[: len(whole) // 2])
    assert start(tmp_path)[1] == len(made) - 1
    # Compiled again and written again, though not bit for bit.
    assert programs(folder) == made and len(made[0].read_bytes()) > len(whole) // 2


def test_the_users_own_folder_goes_before_ours(tmp_path):
    chosen = tmp_path / "chosen"
    line, _ = start(tmp_path, JAX_COMPILATION_CACHE_DIR=str(chosen))
    assert line == f"programs in {chosen}" and len(programs(chosen)) >= 2
    assert not (tmp_path / "dino_jax").exists()


CHANGED = "jax_persistent_cache_min_compile_time_secs", "jax_persistent_cache_enable_xla_caches"


@pytest.fixture
def folder(tmp_path):
    """A folder that jax keeps programs in, until the test is over."""
    before = getattr(jax.config, KEPT)
    jax.config.update(KEPT, str(tmp_path))
    yield tmp_path
    jax.config.update(KEPT, before)


def test_programs_of_several_cpu_devices_are_not_kept(folder):
    assert jax.device_count() == 4
    line = keep_programs(str(folder))
    assert line == "not kept: programs of several CPU devices hang when they are read again"
    assert getattr(jax.config, KEPT) is None


def test_a_folder_that_cannot_be_written_is_an_error_of_the_option_only(folder, monkeypatch):
    monkeypatch.setattr("dino_jax.commands.compilation_cache._why_not", lambda setting: "")
    before = jax.config.values.copy()
    file = folder / "file"
    file.write_text("")
    with pytest.raises(OSError, match=r"'.*file' cannot be used: .* runtime.compilation_cache"):
        keep_programs(str(file))
    jax.config.update(KEPT, str(file))  # as JAX_COMPILATION_CACHE_DIR does
    try:
        assert keep_programs().startswith(f"programs read from {file}, none written: ")
    finally:
        for name in CHANGED:
            jax.config.update(name, before[name])


def test_the_user_can_turn_it_off(folder):
    assert keep_programs("") == "not kept: runtime.compilation_cache is ''"
    assert getattr(jax.config, KEPT) is None
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        assert keep_programs(str(folder)) == "not kept: jax_enable_compilation_cache is off"
    finally:
        jax.config.update("jax_enable_compilation_cache", True)


def fill(folder: Path, **sizes: int) -> None:
    """Writes programs of so many bytes, the first one long ago, the others later and later."""
    for number, (name, size) in enumerate(sizes.items()):
        path = folder / f"{name}-cache"
        path.write_bytes(zlib.compress(bytes(size), 0))
        os.utime(path, (1_000_000 + number, 1_000_000 + number))


def test_the_programs_that_were_not_used_for_longest_go_first(tmp_path):
    fill(tmp_path, old=4000, read=4000, new=4000)
    os.utime(tmp_path / "read-cache", (2_000_000, 1_000_001))  # read later than it was written
    (tmp_path / "other").write_bytes(bytes(100_000))  # not a program
    (tmp_path / ".looked").touch()  # a look would be a use
    tidy(absolute_path(tmp_path), limit=13_000)
    assert [p.name for p in programs(tmp_path)] == ["new-cache", "old-cache", "read-cache"]
    tidy(absolute_path(tmp_path), limit=10_000)
    assert [p.name for p in programs(tmp_path)] == ["new-cache", "read-cache"]
    tidy(absolute_path(tmp_path), limit=5_000)
    assert [p.name for p in programs(tmp_path)] == ["read-cache"]
    assert (tmp_path / "other").exists()


@pytest.mark.parametrize("damage", [b"", b"x\x9c", b"x\x9cgarbage", "half", "bit"])
def test_a_torn_program_is_removed(damage, tmp_path):
    fill(tmp_path, torn=4000, whole=4000)
    torn = tmp_path / "torn-cache"
    data = zlib.compress(os.urandom(4000))
    flipped = data[:2000] + bytes([data[2000] ^ 1]) + data[2001:]
    torn.write_bytes({"half": data[:-5], "bit": flipped}.get(damage, damage))
    tidy(absolute_path(tmp_path))
    assert [p.name for p in programs(tmp_path)] == ["whole-cache"]


def test_a_program_that_was_whole_is_not_read_again(tmp_path):
    fill(tmp_path, program=4000)
    tidy(absolute_path(tmp_path))
    (tmp_path / "program-cache").write_bytes(b"torn")
    os.utime(tmp_path / "program-cache", (1_000_000, 1_000_000))
    tidy(absolute_path(tmp_path))
    assert len(programs(tmp_path)) == 1


def test_a_folder_that_vanishes_meanwhile_is_no_error(tmp_path):
    tidy(epath.Path(tmp_path / "none"))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="XLA's flag is for x86")
def test_jax_tells_programs_for_other_processors_apart():
    """A folder that machines share would else give one of them instructions that it lacks."""
    script = (
        "import jax; from jax._src.lib import xla_client\n"
        "print(xla_client.get_topology_for_devices(jax.devices()).fingerprint())"
    )
    flags = f"{os.environ['XLA_FLAGS']} --xla_cpu_max_isa=AVX"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=True,
    )
    ours = xla_client.get_topology_for_devices(jax.devices()).fingerprint()
    assert int(done.stdout) != ours


def alarms(tmp_path: Path, flags: str, devices: tuple[str, ...] = (), **environment: str) -> str:
    """The level of XLA's messages in a process on a machine with these features and devices."""
    (tmp_path / "cpuinfo").write_text(f"model name : X\nflags\t\t: {flags} fma\n")
    (tmp_path / "dev").mkdir()
    for name in ("null", *devices):
        (tmp_path / "dev" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "dev" / name).touch()
    script = (
        "import os, sys; from pathlib import Path; from dino_jax.commands import false_alarms\n"
        "cpuinfo, devices = map(Path, sys.argv[1:])\n"
        "false_alarms.hide(cpuinfo, devices)\n"
        "print(os.environ.get('TF_CPP_MIN_LOG_LEVEL', ''), false_alarms.hidden(cpuinfo))"
    )
    cleared = {k: v for k, v in os.environ.items() if k not in ("TF_CPP_MIN_LOG_LEVEL",)}
    cleared.pop("JAX_PLATFORMS", None)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "cpuinfo"), str(tmp_path / "dev")],
        env=cleared | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_false_alarms_are_hidden_where_they_come(tmp_path):
    if "avx512f" in Path("/proc/cpuinfo").read_text():
        pytest.skip("the package has already hidden them here")
    cases = [
        ("sse avx2", (), {}, " True"),
        ("sse avx512f", (), {}, "3 True"),
        ("sse avx512f", (), {"TF_CPP_MIN_LOG_LEVEL": "0"}, "0 False"),
        ("sse avx512f", ("accel0",), {}, " False"),
        ("sse avx512f", ("vfio/0",), {}, " False"),
        ("sse avx512f", ("nvidia0",), {}, " False"),
        ("sse avx512f", ("nvidia0",), {"JAX_PLATFORMS": "cpu"}, "3 True"),
    ]
    for number, (flags, devices, environment, expected) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert alarms(folder, flags, devices, **environment) == expected.strip(), flags
