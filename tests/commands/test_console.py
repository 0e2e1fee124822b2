"""Commands on consoles that cannot show everything, or that are closed."""

import os
import subprocess
import sys

from dino_jax.__main__ import COMMANDS

HELPS = """
import contextlib, importlib, io, sys
from dino_jax.__main__ import COMMANDS
for name, command in COMMANDS.items():
    try:
        importlib.import_module(command.module).main(["--help"])
    except SystemExit as stopped:
        print(f"== {stopped.code}")
"""


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


def test_every_help_is_whole_without_docstrings_home_and_unicode():
    done = run("-OO", "-c", HELPS, PYTHONIOENCODING="ascii", LC_ALL="C", HOME="", TERM="dumb")
    assert (done.returncode, done.stderr) == (0, "")
    helps = done.stdout.split("== 0\n")
    assert helps.pop() == "" and len(helps) == len(COMMANDS)
    for text, command in zip(helps, COMMANDS.values(), strict=True):
        assert text.startswith(f"{command.about}\n\nusage: dino-jax ")


def test_a_reader_that_has_gone_is_no_traceback():
    code = (
        "import os, sys; from dino_jax.__main__ import main; r, w = os.pipe(); os.close(r); "
        "os.dup2(w, 1); sys.stdout.reconfigure(line_buffering=True); main(['--help'])"
    )
    done = run("-c", code)
    assert done.returncode != 0 and done.stderr == ""


def test_what_an_encoding_lacks_is_written_as_an_escape():
    done = run("-m", "dino_jax", "nöthing", PYTHONIOENCODING="ascii", PYTHONUTF8="1")
    assert done.returncode == 2
    assert done.stderr.startswith(r"error: unknown command 'n\xf6thing'")
