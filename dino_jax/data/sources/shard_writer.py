"""Writes the images of a source as one ArrayRecord shard."""

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from dino_jax.data.sources.base import ImageSource
from dino_jax.data.sources.record_format import (
    WRITE_OPTIONS,
    encode_image,
    encode_record,
    still_image,
)
from dino_jax.workdir.paths import written_whole


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
      indices: indices of the images to write, in this order.
      digests: [len(indices), 32] uint8 SHA-256 that the encoded images must have.
      target: local path or gs://; replaced if it exists.
      on_image: called after each image.

    Raises:
      OSError: if an image can't be read or has changed, or the shard can't be written.
    """
    with written_whole(target) as path:
        try:
            _write_records(path, _encoded_records(source, indices, digests, on_image))
            written = _count_records(path)
        except RuntimeError as error:  # array_record's, such as "No space left on device"
            raise OSError(f"{target} can't be written: {error}") from error
        if written != len(indices):
            raise OSError(f"{target} can't be written: it has {written} of {len(indices)} records")


def _encoded_records(
    source: ImageSource, indices: Sequence[int], digests: np.ndarray, on_image: Callable[[], None]
) -> Iterator[bytes]:
    for index, digest in zip(indices, digests, strict=True):
        record = source[index]
        image = encode_image(still_image(record))
        if hashlib.sha256(image).digest() != digest.tobytes():
            raise OSError(
                f"{source.name(index)} has changed since it was scanned; build into an empty folder"
            )
        yield encode_record({"image": image, "label": record["label"], "name": record["name"]})
        on_image()


def _write_records(path: str, records: Iterator[bytes]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(path, WRITE_OPTIONS)
    try:
        for record in records:
            writer.write(record)
    finally:
        writer.close()


def _count_records(path: str) -> int:
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(path)
    records = reader.num_records()
    reader.close()
    return records
