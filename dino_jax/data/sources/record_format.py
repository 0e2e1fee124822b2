"""The format that `dino-jax build` writes.

A data set is a folder of ArrayRecord shards (one record per group, uncompressed: images already
are) and dataset.json, which holds the shared data: class names, records per shard, mean and
standard deviation. A record is one MessagePack map {"image": bytes, "label": int, "name": str};
"image" is an encoded file as it was found. MessagePack because it is self-describing, is read in
every language, keeps bytes as bytes and is a dependency of Flax anyway, while tf.Example would
need TensorFlow or its generated code.
"""

import json
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from etils import epath
from PIL import Image

from dino_jax.data.sources.base import MAX_CLASSES, UNLABELED, Record
from dino_jax.foreign.json_text import read_json
from dino_jax.workdir.paths import written_whole

FORMAT = "dino_jax image records, version 1"
SHARD_SUFFIX = ".arrayrecord"
WRITE_OPTIONS = "group_size:1,uncompressed"
DESCRIPTION = "dataset.json"
MAX_DESCRIPTION_BYTES = 1 << 28  # a million classes with their names, and all shards
MAX_SHARD_RECORDS = 1 << 32
_STORED = {"image": bytes, "label": int, "name": str}


@dataclass(frozen=True)
class Description:
    """The content of dataset.json.

    Attributes:
      class_names: the name of each label, () when there are no labels.
      shards: records of each shard, by file name, in order.
      mean: mean of the channels in [0, 1], every image counting equally; None if not computed.
      std: standard deviation, like `mean`.
      limits: the smallest and the largest stored number, which are 0 and 1 of `mean` and `std`;
        None if they were not measured.
    """

    class_names: tuple[str, ...]
    shards: dict[str, int]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    limits: tuple[float, ...] | None = None


def shard_name(shard: int, shards: int) -> str:
    """Such as "images-00003-of-00064.arrayrecord"."""
    return f"images-{shard:05d}-of-{shards:05d}{SHARD_SUFFIX}"


def encode_record(record: Record) -> bytes:
    """One record as bytes; names that are not UTF-8 keep their bytes."""
    packer = msgpack.Packer(unicode_errors="surrogateescape")
    image = encode_image(still_image(record))
    return packer.pack({"image": image, "label": record["label"], "name": record["name"]})


def decode_record(data: bytes) -> Record:
    """The inverse of `encode_record`.

    Raises:
      ValueError: if `data` is not such a record.
    """
    record = msgpack.unpackb(data, unicode_errors="surrogateescape")
    if not isinstance(record, dict) or record.keys() != _STORED.keys():
        raise ValueError(f"the record is not of the format {FORMAT!r}")
    types = {name: type(value) for name, value in record.items()}
    if types != _STORED or not UNLABELED <= record["label"] < MAX_CLASSES:
        raise ValueError(f"the record holds {types}, label {record['label']!r:.20}")
    return {"image": record["image"], "label": record["label"], "name": record["name"]}


def still_image(record: Record) -> bytes | np.ndarray:
    """The image of a record.

    Raises:
      OSError: if it is a clip: shards hold still images.
    """
    image = record["image"]
    if isinstance(image, list):
        raise OSError(
            f"{record['name']} is a clip of {len(image)} frames; shards hold still images"
        )
    return image


def encode_image(image: bytes | np.ndarray) -> bytes:
    """A file as it is; [H, W, 3] uint8 as PNG, other pixels as .npy, which lose nothing."""
    if isinstance(image, bytes):
        return image
    buffer = BytesIO()
    if image.dtype == np.uint8 and image.shape[2] == 3:
        Image.fromarray(image).save(buffer, "PNG")
    else:
        np.save(buffer, image, allow_pickle=False)
    return buffer.getvalue()


def write_description(folder: str, description: Description) -> None:
    """Writes dataset.json, which makes the data set complete."""
    text = json.dumps({"format": FORMAT, **asdict(description)}, indent=1)
    with written_whole(f"{folder}/{DESCRIPTION}") as path:
        Path(path).write_text(text + "\n")


def read_description(folder: str) -> Description:
    """Reads dataset.json.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it is damaged or has another format.
    """
    path = epath.Path(folder) / DESCRIPTION
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: it is written at the end of dino-jax build; run the same build "
            "again to finish it, or copy the file to the shards"
        )
    try:
        content: Any = read_json(path, MAX_DESCRIPTION_BYTES)
        if content.pop("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        class_names, shards = content["class_names"], content["shards"]
        if not isinstance(class_names, list) or not all(isinstance(x, str) for x in class_names):
            raise ValueError("its class names are not a list of texts")
        counts = list(dict(shards).values())
        if any(type(x) is not int or not 0 <= x <= MAX_SHARD_RECORDS for x in counts):
            raise ValueError("its shards are not names with numbers of records")
        return Description(
            class_names=tuple(class_names),
            shards=dict(shards),
            mean=tuple(float(x) for x in content["mean"]) if content["mean"] else None,
            std=tuple(float(x) for x in content["std"]) if content["std"] else None,
            limits=tuple(float(x) for x in content.get("limits") or ()) or None,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} can't be read: {error!r}; build the data set again") from error
