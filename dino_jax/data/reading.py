"""Images of a source as pixels, and what cannot be read."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dino_jax.data.decode import UnreadableImageError, decode_image
from dino_jax.data.decoding import RGB, Decoding
from dino_jax.data.sources import ImageSource
from dino_jax.foreign.files import require_memory
from dino_jax.foreign.names import one_line
from dino_jax.foreign.numbers import numbers_of_array

MAX_REPLACEMENTS = 100
TRIED = 8  # images at the start of a run, before it is refused
Decode = Callable[[bytes, int, Decoding], Any]


def read_image(source: ImageSource, index: int, max_pixels: int) -> tuple[np.ndarray, int, str]:
    """Reads and decodes one image of a source, or the first frame of a clip.

    Returns:
      [H, W, C] uint8, the label, and the name inside the source.

    Raises:
      UnreadableImageError: if the file can't be read or decoded; the message names it.
    """
    frames, label, name = read_frames(source, index, max_pixels, most=1)
    return frames[0], label, name


def require_readable(sources: Mapping[str, ImageSource], max_pixels: int) -> None:
    """Checks on one image of each source, or a few more if that fails, that they fit the config.

    A file that cannot be reached now is left to whoever reads it later.

    Args:
      sources: sources by section of the config.
      max_pixels: larger images are unreadable.

    Raises:
      ValueError: if a section fits none of the images that were tried.
    """
    for where, source in sources.items():
        tried = range(0, len(source), max(1, len(source) // TRIED))[:TRIED]
        reason: UnreadableImageError | None = None
        for index in tried:
            try:
                read_frames(source, index, max_pixels, most=1)
                break
            except UnreadableImageError as error:
                if isinstance(error.__cause__, OSError):
                    break
                reason = error
        else:
            raise ValueError(
                f"{where}: none of {len(tried)} images, evenly spaced over {len(source):,}, can be "
                f"read as the config says; the last reason: {reason}"
            )


def explain_unreadable(source: ImageSource, index: int, max_pixels: int) -> str:
    """The name of an image, and why it cannot be read; it is read again."""
    try:
        read_frames(source, index, max_pixels)
    except UnreadableImageError as error:
        return str(error)
    return f"{source.name(index)}: now it can be read"


def read_frames(
    source: ImageSource,
    index: int,
    max_pixels: int,
    most: int | None = None,
    decode: Decode = decode_image,
) -> tuple[list[Any], int, str]:
    """Reads and decodes the frames of one clip of a source; a still image is one frame.

    Args:
      source: source of images or clips.
      index: index in the source.
      max_pixels: larger frames are unreadable.
      most: number of frames to decode, starting with the first; None for all.
      decode: makes a frame of the bytes of a file, the limit of pixels and a decoding.

    Returns:
      Frames, [H, W, C] uint8 or what `decode` makes, the label, and the name inside the source.

    Raises:
      UnreadableImageError: if a frame can't be read or decoded; the message, one line, names the
        clip.
      MemoryError: if there is no memory for a small image either.
    """
    try:
        record = source[index]
        stored = record["image"]
        stored = stored[:most] if isinstance(stored, list) else [stored]
        decoding = record.get("decoding", RGB)
        frames = [
            decoding(numbers_of_array(frame))
            if isinstance(frame, np.ndarray)
            else decode(frame, max_pixels, decoding)
            for frame in stored
        ]
    except MemoryError as error:
        require_memory()
        raise UnreadableImageError(f"{source.name(index)}: too large for the memory") from error
    except (OSError, UnreadableImageError) as error:
        raise UnreadableImageError(f"{source.name(index)}: {one_line(str(error))}") from error
    if not frames:
        raise UnreadableImageError(f"{source.name(index)}: the clip has no frames")
    return frames, record["label"], record["name"]


def read_readable(
    source: ImageSource,
    index: int,
    max_pixels: int,
    decode: Decode = decode_image,
) -> tuple[int, list[Any], int]:
    """Reads and decodes image `index`, or the next one of the source that can be read.

    Returns:
      The index of the image that was read, its frames as in `read_frames` (one for a still image),
      and its label.

    Raises:
      ValueError: if 100 images in a row are unreadable.
    """
    failure = None
    for offset in range(min(MAX_REPLACEMENTS, len(source))):
        used = (index + offset) % len(source)
        try:
            frames, label, _ = read_frames(source, used, max_pixels, decode=decode)
            return used, frames, label
        except UnreadableImageError as error:
            failure = error
    raise ValueError(
        f"{min(MAX_REPLACEMENTS, len(source))} images in a row are unreadable, from "
        f"{source.name(index)} on; the last reason was {failure}. Is the storage mounted, "
        "are these images, is max_pixels large enough?"
    )
