"""Training and test images with labels, as the classification protocols need them."""

import argparse
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from dino_jax.commands.config_file import load_config
from dino_jax.commands.source_arguments import part_config
from dino_jax.data.decoding import Decoding
from dino_jax.data.sources import (
    UNLABELED,
    FolderSource,
    ImageSource,
    Record,
    build_source,
    is_given,
)
from dino_jax.data.sources.decoded import decoded

FOLDERS = {"train": ("train",), "test": ("val", "validation", "test")}
SPLITS = {"tfds": "validation", "digits": "test"}  # of the test images
WITHOUT_PATH = ("digits", "tfds")


class Labelled(NamedTuple):
    """Two sources with the labels of the training images.

    Attributes:
      train: the training images.
      test: the test images.
      class_names: class names of the labels of both.
    """

    train: ImageSource
    test: "Relabelled"
    class_names: tuple[str, ...]


def open_labelled(arguments: argparse.Namespace, decoding: Decoding) -> Labelled:
    """Opens the images that the command line names, decoded as `decoding` says.

    Raises:
      ValueError: if it does not name both parts, labels are missing, there are fewer than two
        classes, or test images have other classes than training images.
      OSError: if there are no such files.
    """
    train, test = (open_part(arguments, decoding, part) for part in ("train", "test"))
    if len(train.class_names) < 2:
        raise ValueError(
            "classification needs at least two classes, the training images have only "
            f"{list(train.class_names)}; is --data (or --train) one level too high or too low?"
        )
    unknown = sorted(set(test.class_names) - set(train.class_names))
    if unknown:
        raise ValueError(
            f"test images have classes without training images: {unknown[:10]}; training has "
            f"{list(train.class_names[:10])}"
        )
    return Labelled(train, Relabelled(test, train.class_names), train.class_names)


def parts_of(images: Labelled) -> dict[str, ImageSource]:
    """Both sources by the option that names them."""
    return {"--train": images.train, "--test": images.test.original}


def has_parts(arguments: argparse.Namespace) -> bool:
    """Whether the command line names training and test images, and not one folder of classes."""
    if arguments.train or arguments.test or arguments.kind != "folder":
        return True
    root = epath.Path(arguments.data).expanduser()
    if not arguments.data or arguments.data.endswith(".py") or not root.is_dir():
        return True
    folders = [child.name for child in root.iterdir() if child.is_dir()]
    parts = {name for names in FOLDERS.values() for name in names}
    return not folders or not parts.isdisjoint(folders)


def open_classes(folder: str, decoding: Decoding) -> ImageSource:
    """Opens the images of one folder of class folders, decoded as `decoding` says.

    Raises:
      ValueError: if there are fewer than two classes, or other images than theirs.
      OSError: if there are no such files.
    """
    source = FolderSource(folder)
    if len(source.class_names) < 2:
        raise ValueError(
            f"--data={folder} needs the folders train and val, or one folder per class, at least "
            f"two; classes found: {list(source.class_names)}"
        )
    return decoded(source, decoding)


def open_part(arguments: argparse.Namespace, decoding: Decoding, part: str) -> ImageSource:
    """Opens the "train" or the "test" images that the command line names, with their own labels.

    Where their config does not say it, they are decoded as `decoding` says.

    Raises:
      ValueError: if it does not name them, or they have no labels.
      OSError: if there are no such files.
    """
    source = build_source(_config(arguments, part), f"--{part}", decoding)
    if not source.class_names:
        raise ValueError(
            f"the {part} images have no labels: put them into one folder per class, write "
            "PATH<tab>LABEL into a list, or name --label-column of Parquet"
        )
    return source


class Relabelled:
    """A source with the labels of another source, by class name."""

    def __init__(self, source: ImageSource, class_names: tuple[str, ...]):
        """Takes a source whose classes are among `class_names`; it is kept as `original`."""
        self.original, self.class_names = source, class_names
        self._labels = np.array([class_names.index(name) for name in source.class_names])

    def __len__(self) -> int:
        return len(self.original)

    def __getitem__(self, index: int) -> Record:
        record = self.original[index]
        label = record["label"]
        return {**record, "label": UNLABELED if label < 0 else int(self._labels[label])}

    def name(self, index: int) -> str:
        """As the source says."""
        return self.original.name(index)


def _config(arguments: argparse.Namespace, part: str) -> dict[str, Any]:
    if arguments.data.endswith(".py"):
        return _of_config_file(arguments.data, part)
    split = getattr(arguments, f"{part}_split") or SPLITS.get(arguments.kind, "")
    return part_config(arguments, _path(arguments, part), split)


def _of_config_file(path: str, part: str) -> dict[str, Any]:
    """The section of the training or the test images of a config's k-NN."""
    config: Any = load_config(path)
    found = [(name, entry) for name, entry in config.evaluations.items() if entry.kind == "knn"]
    if not found:
        raise ValueError(f"--data={path}: its config.evaluations has none of kind 'knn'")
    name, knn = found[0]
    images = {"train": knn.train, "test": knn.test}[part]
    if not is_given(images):
        raise ValueError(
            f"--data={path}: its config.evaluations.{name}.{part} has no path; pass --train=PATH "
            "and --test=PATH, or --data=FOLDER"
        )
    return images.to_dict()


def _path(arguments: argparse.Namespace, part: str) -> str:
    """Path of one part; "" where the kind needs none."""
    if arguments.kind in WITHOUT_PATH:
        return ""
    given = getattr(arguments, part)
    if given:
        return given
    names = FOLDERS[part]
    if not arguments.data:
        raise ValueError(
            "which images? Pass --data=FOLDER with the folders train and val in it, --train=PATH "
            "and --test=PATH, --data=CONFIG.py (its config.evaluations.knn), or --kind=digits"
        )
    root = epath.Path(arguments.data).expanduser()
    for name in names:
        if (root / name).is_dir():
            return str(root / name)
    seen = "it does not exist" if not root.exists() else f"it has no folder {' or '.join(names)}"
    raise ValueError(
        f"--data={arguments.data}: {seen}; pass a folder that holds train and val, or "
        f"--{part}=PATH for the {part} images"
    )
