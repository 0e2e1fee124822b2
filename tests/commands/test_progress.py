"""How far a command is, on a terminal and elsewhere."""

import re
import sys

import numpy as np

from dino_jax.commands import progress as module
from dino_jax.commands.progress import Progress, show_progress


def test_progress_is_lines_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr(module, "LINE_SECONDS", 0.0)
    progress = Progress("scan", 2000)
    progress.show(1500)
    progress.close()
    assert re.fullmatch(r"scan +1,500 of 2,000 images, [\d,]+/s\n", capsys.readouterr().out)


def test_progress_is_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    progress = Progress("scan", 2000, "steps")
    progress.show(1500)
    progress.close()
    output = capsys.readouterr()
    assert output.out == ""
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.err)
    assert re.search(r"scan .* 75% 1,500 of 2,000 steps, [\d,]+/s", shown)


def test_batches_are_passed_on_and_their_images_counted_once(capsys, monkeypatch):
    monkeypatch.setattr(module, "LINE_SECONDS", 0.0)
    valid, unreadable = np.array([True, False, False]), np.array([-1, 7, -1])
    batches = [{"valid": valid, "unreadable": unreadable}] * 2  # the third row is padding
    assert list(show_progress(batches, "embed", 4)) == batches
    counted = re.findall(r"([\d,]+) of 4 images", capsys.readouterr().out)
    assert counted == ["2", "4"]
