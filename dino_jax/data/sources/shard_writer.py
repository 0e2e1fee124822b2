"""Writes the images of a source as one ArrayRecord shard."""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from dino_jax.data.sources.base import ImageSource
from dino_jax.data.sources.record_format import WRITE_OPTIONS, encode_image, encode_record
from dino_jax.data.sources.storage import written_whole


def write_shard(
    source: ImageSource,
    indices: Sequence[int],
    digests: np.ndarray,
    target: str,
    on_image: Callable[[], None],
) -> None:
    """Writes one shard; it appears under its name only when it is complete.

    Args:
      source: the images.
      indices: which of them, in this order.
      digests: [len(indices), 32] uint8 SHA-256 that the encoded images must have.
      target: local path or gs://; replaced if it exists.
      on_image: called after each image.

    Raises:
      OSError: if an image can't be read or has changed, or the shard can't be written.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    with written_whole(target) as path:
        writer = ArrayRecordWriter(path, WRITE_OPTIONS)
        try:
            for index, digest in zip(indices, digests, strict=True):
                record = source[index]
                record["image"] = encode_image(record["image"])
                if hashlib.sha256(record["image"]).digest() != digest.tobytes():
                    raise OSError(
                        f"{source.name(index)} has changed since it was scanned; build into an "
                        "empty folder"
                    )
                writer.write(encode_record(record))
                on_image()
        finally:
            writer.close()
