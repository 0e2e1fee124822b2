"""Freed memory stays with the process."""

import subprocess
import sys

import pytest

# Frees 256 MiB and allocates them again, on another thread, as jax does; prints the page faults.
FAULTS = """
import resource, sys, threading
from dino_jax.devices.host_memory import keep_freed_memory

def allocate():
    block = b"x" * (256 << 20)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread = threading.Thread(target=allocate)
    thread.start()
    thread.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("not glibc")
print(faults(), faults())
"""


def page_faults(how: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True)
    if done.stderr == "not glibc\n":
        pytest.skip("malloc of this system has no mallopt")
    assert done.returncode == 0, done.stderr
    return [int(number) for number in done.stdout.split()]


def test_freed_memory_is_used_again_on_every_thread():
    first, second = page_faults("keep")
    assert second < 0.1 * first
    first, second = page_faults("as it is")
    assert second > 0.5 * first
