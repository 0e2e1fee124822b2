"""Videos in and out, frame by frame; needs PyAV, `pip install 'dino_jax[video]'`."""

import contextlib
import importlib
import itertools
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from dino_jax.foreign.files import require_regular

SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
QUALITY = "18"  # H.264 constant rate factor; hard to tell from the source


def is_film(path: str) -> bool:
    """Whether a name is the name of a video."""
    return path.lower().endswith(SUFFIXES)


def import_av() -> Any:
    """PyAV, which nothing else needs.

    Raises:
      ImportError: if it is not installed.
    """
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise ImportError(
            "videos need PyAV, which is not installed: pip install 'dino_jax[video]' (or av)"
        ) from error


class Film:
    """The frames of a video file; a context manager.

    Attributes:
      rate: frames per second, on average; None if the file does not say.
      count: number of frames, 0 if the file does not say.
    """

    def __init__(self, path: str):
        """Opens the file.

        Raises:
          ImportError: if PyAV is not installed.
          OSError: if there is no such file.
          ValueError: if it is not a video.
        """
        self._av, self._path = import_av(), path
        if not Path(path).exists():
            raise FileNotFoundError(f"there is no video {path!r}")
        try:
            require_regular(path)
            self._container = self._av.open(path)
        except self._av.FFmpegError as error:
            raise ValueError(f"{path} is not a video, or is damaged: {error}") from error
        if not self._container.streams.video:
            self._container.close()
            raise ValueError(f"{path} has no pictures")
        self._stream = self._container.streams.video[0]
        self.rate: Fraction | None = self._stream.average_rate or self._stream.guessed_rate
        self.count: int = self._stream.frames

    def __iter__(self) -> Iterator[np.ndarray]:
        """[H, W, 3] uint8 of each frame, upright.

        Raises:
          ValueError: if the file is damaged.
        """
        number = 0
        try:
            for frame in self._container.decode(self._stream):
                number += 1
                yield np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
        except self._av.FFmpegError as error:
            raise ValueError(f"{self._path} is damaged after frame {number}: {error}") from error

    def __enter__(self) -> "Film":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()


def write_film(path: Path, frames: Iterable[np.ndarray], rate: Fraction) -> int:
    """Writes an MP4 (H.264, no sound), whole or not at all.

    Args:
      path: ending in .mp4.
      frames: [H, W, 3] uint8, all of one shape, consumed one by one; odd sides grow by a pixel.
      rate: frames per second.

    Returns:
      The number of frames.

    Raises:
      ImportError: if PyAV is not installed.
      ValueError: if there are no frames.
    """
    av, count = import_av(), 0
    even = map(_make_even, frames)
    first = next(even, None)
    if first is None:
        raise ValueError(f"there are no frames for {path}")
    partial = path.with_name(f".{path.stem}.part.mp4")
    try:
        with av.open(str(partial), "w") as container:
            stream = container.add_stream("libx264", rate=rate, options={"crf": QUALITY})
            stream.height, stream.width = first.shape[:2]
            stream.pix_fmt = "yuv420p"
            for frame in itertools.chain([first], even):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
                count += 1
            container.mux(stream.encode(None))
        partial.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
    return count


def _make_even(frame: np.ndarray) -> np.ndarray:
    """H.264 stores colors for squares of four pixels."""
    height, width, _ = frame.shape
    padded = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(padded)
