"""Where images come from: a folder, a prepared TFDS data set, or scikit-learn's digits.

A source hands out encoded files; decoding, with its limits, is `decode.decode_image` for all.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypedDict

import numpy as np
from etils import epath
from PIL import Image

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
UNLABELED = -1
DIGITS_TEST_SIZE = 359


class Record(TypedDict):
    """One entry of a source: an encoded file or [H, W, 3] uint8, and a class index or -1."""

    image: bytes | np.ndarray
    label: int


class ImageSource(Protocol):
    """Random access to images; picklable, safe to read from several threads.

    Attributes:
      class_names: the name of each label, () when there are no labels.
    """

    class_names: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """Reads record `index`; raises OSError when its file can't be read."""
        ...

    def name(self, index: int) -> str:
        """A path or record name for messages."""
        ...


class FolderSource:
    """All images below a folder, at any depth, sorted by relative path.

    Files count by suffix (`IMAGE_SUFFIXES`, any case). Hidden files and folders are skipped, links
    to folders are not followed, links to files only when they stay inside the folder. If every
    image lies in a sub-folder, the first-level folders are the classes; else there are no labels.
    """

    def __init__(self, path: str | os.PathLike):
        """Lists the folder, which may be local or remote (gs://, which needs gcsfs).

        Raises:
          FileNotFoundError: if there is no such folder.
          ValueError: if it holds no images.
        """
        root = epath.Path(path).expanduser()
        self._root = os.fspath(root)
        if not root.is_dir():
            raise FileNotFoundError(
                f"image folder {self._root!r} does not exist or is no folder; pass the path of a "
                "folder with images (sub-folders are searched)"
            )
        files = list(_list_remote(root) if "://" in self._root else _list_local(self._root))
        names = sorted(name for name in files if name.lower().endswith(IMAGE_SUFFIXES))
        if not names:
            raise ValueError(
                f"image folder {self._root!r} holds no images: {len(files)} other files were seen; "
                f"suffixes that count are {', '.join(IMAGE_SUFFIXES)} (hidden files and symbolic "
                "links that lead outside the folder do not)"
            )
        self._files = _PackedNames(names)
        self.class_names, self._labels = _first_level_labels(names)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Record:
        return {
            "image": epath.Path(self.name(index)).read_bytes(),
            "label": int(self._labels[index]),
        }

    def name(self, index: int) -> str:
        """The file's path."""
        return f"{self._root.rstrip('/')}/{self._files[index]}"


class TfdsSource:
    """A TFDS data set prepared as ArrayRecord, read without TensorFlow.

    TFDS's own image decoding is skipped: records are the encoded images.
    """

    def __init__(self, name: str, split: str, data_dir: str | None):
        """Opens a prepared split.

        Args:
          name: TFDS name, such as "imagenet2012" or "beans/1.0.0".
          split: TFDS split expression, such as "train" or "train[:10%]".
          data_dir: where it was prepared; None for TFDS's default (~/tensorflow_datasets).

        Raises:
          ImportError: if tensorflow_datasets is not installed.
          ValueError: if the data set is unknown, not prepared as ArrayRecord, or has not exactly
            one image feature.
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
        try:
            builder: Any = tfds.builder(name, data_dir=data_dir)
        except tfds.core.DatasetNotFoundError as error:
            raise ValueError(f"TFDS knows no data set {name!r} (data_dir={data_dir!r})") from error
        features = builder.info.features
        self._image_key = _only_image_feature(name, features, tfds.features.Image)
        self._label_key, self.class_names = _label_feature(features, tfds.features.ClassLabel)
        try:
            self._records = builder.as_data_source(
                split, decoders={self._image_key: tfds.decode.SkipDecoding()}
            )
        # TFDS reports missing data as AssertionError, a wrong file format as NotImplementedError.
        except (AssertionError, NotImplementedError, ValueError) as error:
            raise ValueError(
                f"TFDS data set {name!r}, split {split!r}, can't be read from {builder.data_dir}: "
                f"{error}\nIf it is not prepared as ArrayRecord yet, run\n  {prepare}"
            ) from error

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        record = self._records[index]
        label = UNLABELED if self._label_key is None else int(record[self._label_key])
        return {"image": record[self._image_key], "label": label}

    def name(self, index: int) -> str:
        """The record's place in the split."""
        return f"{self._name}[{index}]"


class DigitsSource:
    """scikit-learn's 1,797 handwritten digits (8x8 gray), as 32x32 RGB: real images, no download.

    The split "test" holds 359 images, "train" 1,438: scikit-learn's `train_test_split` with
    random_state=0. On it the weighted k-NN (cosine, k = 10, temperature 0.07) of the raw 8x8 pixels
    reaches 97.21 %.
    """

    def __init__(self, split: str):
        """Loads the digits; `split` is "train", "test" or "all".

        Raises:
          ValueError: for another split.
        """
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits: Any = load_digits()
        everything = np.arange(len(digits.images))
        train, test = train_test_split(everything, test_size=DIGITS_TEST_SIZE, random_state=0)
        splits = {"train": train, "test": test, "all": everything}
        if split not in splits:
            raise ValueError(f"the digits have no split {split!r}; known: {sorted(splits)}")
        self._split = split
        self._images = np.stack([_enlarge_digit(digits.images[index]) for index in splits[split]])
        self._labels = digits.target[splits[split]]
        self.class_names: tuple[str, ...] = tuple(str(digit) for digit in range(10))

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Record:
        return {"image": self._images[index], "label": int(self._labels[index])}

    def name(self, index: int) -> str:
        """The record's place in the split."""
        return f"digits/{self._split}[{index}]"


_BUILDERS = {
    "folder": lambda config: FolderSource(config.path),
    "tfds": lambda config: TfdsSource(config.name, config.split, config.data_dir),
    "digits": lambda config: DigitsSource(config.split),
}


def build_source(config: Any) -> ImageSource:
    """Builds the source of a config.

    Args:
      config: ConfigDict with `kind`, and `path` for "folder", `name`, `split` and `data_dir` for
        "tfds", `split` for "digits".

    Raises:
      ValueError: for an unknown kind, and as the sources say.
      OSError: for a missing folder.
    """
    if config.kind not in _BUILDERS:
        raise ValueError(f"unknown data source {config.kind!r}; known: {sorted(_BUILDERS)}")
    if config.kind == "folder" and not config.path:
        raise ValueError("the folder source needs a path, got none; try --config.data.path=FOLDER")
    return _BUILDERS[config.kind](config)


class _PackedNames:
    """Many strings in one buffer: lists of a million `str` would cost every worker 100 MB."""

    def __init__(self, names: Sequence[str]):
        encoded = [os.fsencode(name) for name in names]
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self._buffer = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        start = self._ends[index - 1] if index else 0
        return os.fsdecode(self._buffer[start : self._ends[index]])


def _first_level_labels(names: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names and [len(names)] int32 labels; ((), all -1) if a name has no folder."""
    folders = [name.partition("/")[0] for name in names if "/" in name]
    if len(folders) < len(names):
        return (), np.full(len(names), UNLABELED, np.int32)
    class_names, labels = np.unique(folders, return_inverse=True)
    return tuple(class_names.tolist()), labels.astype(np.int32)


def _list_local(root: str) -> Iterator[str]:
    """Relative paths, with "/", of all visible files whose real place is inside `root`."""
    inside = Path(root).resolve()
    for folder, folders, files in os.walk(root, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = Path(folder).relative_to(root).as_posix()
        prefix = "" if relative == "." else f"{relative}/"
        for name in files:
            if name.startswith("."):
                continue
            path = Path(folder, name)
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                continue
            yield f"{prefix}{name}"


def _raise(error: OSError):
    raise error


def _list_remote(root: epath.Path, prefix: str = "") -> Iterator[str]:
    """As `_list_local` for an object store; a name with an image suffix is taken for a file."""
    for entry in root.iterdir():
        if entry.name.startswith("."):
            continue
        if not entry.name.lower().endswith(IMAGE_SUFFIXES) and entry.is_dir():
            yield from _list_remote(entry, f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}"


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


def _enlarge_digit(image: np.ndarray) -> np.ndarray:
    """[8, 8] gray levels 0 to 16 -> [32, 32, 3] uint8."""
    pixels = Image.fromarray(np.rint(image * (255 / 16)).astype(np.uint8))
    return np.array(pixels.resize((32, 32), Image.Resampling.BICUBIC).convert("RGB"))
