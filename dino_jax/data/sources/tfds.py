"""A data set that TensorFlow Datasets has prepared, read without TensorFlow."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dino_jax.data.sources.base import UNLABELED, Contents, PackedNames, Record
from dino_jax.foreign.files import is_remote, require_regular


class TfdsSource:
    """A TFDS data set prepared as ArrayRecord, read without TensorFlow.

    TFDS's own image decoding is skipped: records are the encoded images.
    """

    def __init__(self, name: str, split: str, data_dir: str | None):
        """Opens a prepared split.

        Args:
          name: TFDS name, such as "imagenet2012" or "beans/1.0.0".
          split: TFDS split expression, such as "train" or "train[:10%]".
          data_dir: folder in which it was prepared; None for TFDS's default
            (~/tensorflow_datasets).

        Raises:
          ImportError: if tensorflow_datasets is not installed.
          ValueError: if the data set is unknown, not prepared as ArrayRecord, or does not have
            exactly one image feature.
        """
        try:
            import tensorflow_datasets as tfds
        except ImportError as error:
            raise ImportError(
                "the TFDS source needs tensorflow_datasets: pip install 'dino_jax[tfds]'"
            ) from error
        self._name = f"{name}/{split}"
        prepare = (
            f'python -c "import tensorflow_datasets as tfds; tfds.builder({name!r}, '
            f"data_dir={data_dir!r}, file_format='array_record').download_and_prepare()\""
        )
        _require_files(name, data_dir)
        try:
            builder: Any = tfds.builder(name, data_dir=data_dir)
            features = builder.info.features
            self._full_name = f"{builder.info.full_name}/{split}"
        except tfds.core.DatasetNotFoundError as error:
            raise ValueError(f"TFDS knows no data set {name!r} (data_dir={data_dir!r})") from error
        # What its readers of JSON and protocol buffers raise for damaged files.
        except Exception as error:
            raise ValueError(
                f"TFDS data set {name!r} in {data_dir!r} can't be opened: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not is_remote(builder.data_dir):
            for path in _files_below(Path(builder.data_dir)):
                require_regular(path)
        self._image_key = _only_image_feature(name, features, tfds.features.Image)
        self._label_key, self.class_names = _label_feature(features, tfds.features.ClassLabel)
        try:
            self._records = builder.as_data_source(
                split, decoders={self._image_key: tfds.decode.SkipDecoding()}
            )
        # TFDS reports missing data as AssertionError, a wrong file format as NotImplementedError.
        except Exception as error:
            raise ValueError(
                f"TFDS data set {name!r}, split {split!r}, can't be read from {builder.data_dir}: "
                f"{error}\nIf it is not prepared as ArrayRecord yet, run\n  {prepare}"
            ) from error

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        try:
            record = self._records[index]
            label = UNLABELED if self._label_key is None else int(record[self._label_key])
        except Exception as error:  # array_record's, protobuf's and TFDS's for damage
            raise OSError(f"the record can't be read: {type(error).__name__}: {error}") from error
        if label != UNLABELED and not 0 <= label < len(self.class_names):
            raise OSError(f"label {label} is none of {len(self.class_names)} classes")
        return {"image": record[self._image_key], "label": label, "name": str(index)}

    def name(self, index: int) -> str:
        """The record's place in the split."""
        return f"{self._name}[{index}]"

    def contents(self) -> Contents:
        """Name and version of the data set, the split and its length."""
        return Contents(len(self), PackedNames([self._full_name]), self.class_names)


def _require_files(name: str, data_dir: str | None) -> None:
    """Checks that TFDS, which opens whatever has the right name, will wait for no pipe or device.

    What can't be opened at all stops nobody: it may belong to a version that is not read.

    Raises:
      OSError: names the first.
    """
    if data_dir and not is_remote(data_dir):
        for path in _files_below(Path(data_dir, name.partition(":")[0])):
            try:
                require_regular(path)
            except OSError as error:
                if error.errno is None:  # not the system's: it is no file
                    raise


def _files_below(root: Path) -> Iterator[Path]:
    for folder, _, files in os.walk(root):
        yield from (Path(folder, file) for file in files)


def _only_image_feature(name: str, features: Any, image_type: type) -> str:
    keys = [key for key, feature in features.items() if isinstance(feature, image_type)]
    if len(keys) != 1:
        raise ValueError(f"TFDS data set {name!r} needs exactly one image feature, has {keys}")
    return keys[0]


def _label_feature(features: Any, label_type: type) -> tuple[str | None, tuple[str, ...]]:
    """The class label "label", or the only one; (None, ()) without a clear one."""
    keys = [key for key, feature in features.items() if isinstance(feature, label_type)]
    if "label" not in keys and len(keys) != 1:
        return None, ()
    key = "label" if "label" in keys else keys[0]
    return key, tuple(features[key].names)
