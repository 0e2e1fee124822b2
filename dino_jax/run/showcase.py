"""Pictures of a run while it trains: crops, probes and the report.

Only process 0 writes. Drawing errors are reported and ignored; running out of device memory is not,
and shows before the first step.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
from etils import epath

from dino_jax.data.preview import draw_preview
from dino_jax.run.live import LiveReport
from dino_jax.run.screen import Progress
from dino_jax.visualize.album import Album
from dino_jax.visualize.probe_images import ProbeImages
from dino_jax.workdir.layout import CROPS_PNG

CROPS_IMAGES = 4  # rows of the sheet of crops


class Showcase:
    """Pictures and report of a run in its workdir; a context manager.

    The last report is written however the run ends: enter this before the record of the ending.
    """

    def __init__(
        self, workdir: epath.Path, config: Any, probes: ProbeImages | None, progress: Progress
    ):
        """Draws the crops that the network will see, unless an earlier start did.

        Args:
          workdir: workdir of the run.
          config: the whole config.
          probes: images to show at every evaluation, None for none.
          progress: the screen.
        """
        self._probes, self._progress = probes, progress
        self._album: Album | None = None
        self._report: LiveReport | None = None
        if jax.process_index() != 0:
            return
        self._report = LiveReport(workdir)
        with self._harmless("pictures"):
            if not (workdir / CROPS_PNG).exists():
                sheet = draw_preview(config, "Crops", CROPS_IMAGES, say=_ignore)
                with (workdir / CROPS_PNG).open("wb") as file:
                    sheet.save(file, "PNG")
            if probes is not None:
                self._album = Album(workdir, probes, config.max_pixels)

    def look(self, step: int, variables: Any) -> None:
        """Looks at the probes; every process calls it, once its last step is finished.

        Args:
          step: finished updates.
          variables: variables of the network to look with.
        """
        if self._probes is None:
            return
        with self._progress.pause("pictures"):
            look = self._probes.look(variables)
        if self._album is not None:
            with self._harmless("pictures"):
                self._album.add(step, look)

    def update_report(self) -> None:
        """Writes the report with the newest metrics, unless it would slow the run down."""
        if self._report is not None:
            with self._harmless("report"):
                self._report.update()

    def __enter__(self) -> "Showcase":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._report is not None:
            with self._harmless("report"):
                self._report.finish()

    @contextmanager
    def _harmless(self, what: str) -> Iterator[None]:
        """Counts as a pause; errors are reported, then ignored."""
        with self._progress.pause(what):
            try:
                yield
            except Exception as error:  # any kind of error: the run is worth more
                reason = f"{type(error).__name__}: {error}".partition("\n")[0]
                self._progress.say(f"no {what} this time: {reason}")


def _ignore(text: str) -> None:
    """Unreadable images are named when training meets them."""
    del text
