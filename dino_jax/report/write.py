"""Writes the report of one run or several."""

from collections.abc import Sequence
from datetime import UTC, datetime

from etils import epath

from dino_jax.report.history import read_runs
from dino_jax.report.page import draw_page
from dino_jax.workdir.paths import absolute_path, write_atomically


def write_report(workdirs: Sequence[epath.PathLike], out: epath.PathLike) -> int:
    """Reads workdirs and writes one HTML file, whole or not at all.

    Args:
      workdirs: workdirs of one run, or of several to compare.
      out: the file, local or gs://.

    Returns:
      Its size in bytes.

    Raises:
      OSError: if a workdir does not exist or holds no metrics, or `out` cannot be written.
      ValueError: if the metrics of a workdir cannot be read.
    """
    page = draw_page(read_runs(workdirs), datetime.now(UTC))
    write_atomically(absolute_path(out), page)
    return len(page.encode())
