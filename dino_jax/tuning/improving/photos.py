"""The photos of an improvement: which are learned from, which are held out, and what judges."""

import argparse
import os
from typing import NamedTuple

import numpy as np
from etils import epath

from dino_jax.config.section import suggest
from dino_jax.data.sources import FolderSource
from dino_jax.foreign.names import printable
from dino_jax.search.metadata import read_table
from dino_jax.tuning.skus import NONE, Skus, skus_of_values
from dino_jax.tuning.split import split_skus
from dino_jax.workdir.paths import absolute_path, write_atomically

TRAIN_TXT, HELD_OUT_TXT = "train.txt", "held_out.txt"
FEWEST = 40  # held-out photos; of fewer, intervals say nothing
MOST = 10_000  # held-out photos; more only cost time
MOST_NEIGHBOURS = 10  # as many as a class has on average, less the photo itself
FORBIDDEN = ("\t", "\n", "\r")  # in a path, which is a line of a list


class Photos(NamedTuple):
    """Photos below a folder.

    Attributes:
      paths: of the files, absolute.
      groups: their classes or products; `Skus.of` is `NONE` for those without.
      by: what judges, a value of `gain.Config.by`.
      left_out: photos that no list can name.
    """

    paths: list[str]
    groups: Skus
    by: str
    left_out: int


class Parts(NamedTuple):
    """A division of the photos.

    Attributes:
      by: what judges.
      trained: number of photos to learn from.
      held_out: number of photos that are measured.
      groups: classes or products among these, 0 without.
      neighbours: that vote for a class.
      left_out: photos that no list can name.
    """

    by: str
    trained: int
    held_out: int
    groups: int
    neighbours: int
    left_out: int


def list_photos(arguments: argparse.Namespace) -> Photos:
    """Lists the photos and what is known of them.

    Raises:
      OSError: if there is no such folder or table.
      ValueError: if there are no photos, or the table has no such column.
    """
    source = FolderSource(absolute_path(arguments.photos))
    names = [source.file(index) for index in range(len(source))]
    folders = [source.class_of(index) for index in range(len(source))]
    values, by = _values(arguments, names, folders)
    paths = [source.path(index) for index in range(len(source))]
    kept = [index for index, path in enumerate(paths) if _can_be_listed(path)]
    groups = skus_of_values([values[index] for index in kept])
    return Photos([paths[index] for index in kept], groups, by, len(paths) - len(kept))


def _can_be_listed(path: str) -> bool:
    """Whether a path is one line of UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return not any(x in path for x in FORBIDDEN)


def _values(
    arguments: argparse.Namespace, names: list[str], folders: list[str | None]
) -> tuple[list, str]:
    """What is known of every photo, and what judges."""
    column = arguments.sku or arguments.label
    by = "pairs" if arguments.sku else "labels"
    if arguments.metadata:
        table = read_table(arguments.metadata, arguments.key)
        columns = next(iter(table.values()))
        if column not in columns:
            raise ValueError(
                f"{arguments.metadata} has no column {column!r}; {suggest(column, columns)}"
            )
        return [table.get(printable(name), {}).get(column) for name in names], by
    if arguments.sku and None in folders:
        raise ValueError(
            f"--sku=label: the photos of {arguments.photos} do not lie in one sub-folder per "
            "product; pass --metadata=TABLE --sku=COLUMN"
        )
    if arguments.without_labels or None in folders or len(set(folders)) < 2:
        return [None] * len(names), "views"
    return folders, by


def divide(photos: Photos, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the photos to learn from, and of the held-out ones; both ascending.

    Photos without a class or product are never held out where these judge. Of products, whole ones
    are held out.

    Raises:
      ValueError: if there are too few.
    """
    count = len(photos.paths)
    if photos.by == "pairs":
        split = split_skus(photos.groups, share, seed, least_photos=1)
        held_out = np.flatnonzero(np.isin(photos.groups.of, split.held_out))
    else:
        known = photos.groups.of != NONE
        able = np.flatnonzero(known) if photos.by == "labels" else np.arange(count)
        wanted = min(max(FEWEST, round(share * len(able))), MOST)
        if len(able) < 2 * FEWEST:
            which = "photos with a class" if photos.by == "labels" else "photos"
            raise ValueError(
                f"{len(able)} {which} are too few: at least {2 * FEWEST} are needed, {FEWEST} to "
                f"learn from and {FEWEST} to measure with"
            )
        order = np.random.default_rng((seed, 5)).permutation(able)
        held_out = np.sort(order[:wanted])
    return np.setdiff1d(np.arange(count), held_out), held_out


def write_lists(photos: Photos, share: float, seed: int, folder: epath.Path) -> Parts:
    """Divides photos, and writes both parts as lists that a run reads.

    Raises:
      ValueError: as `divide`.
    """
    trained, held_out = divide(photos, share, seed)
    of = photos.groups.of
    _write(folder / TRAIN_TXT, [photos.paths[index] for index in trained])
    labelled = photos.by != "views"
    _write(
        folder / HELD_OUT_TXT,
        [f"{photos.paths[i]}\t{of[i]}" if labelled else photos.paths[i] for i in held_out],
    )
    groups = len(np.unique(of[held_out])) if labelled else 0
    others = len(held_out) // groups - 1 if labelled else 1
    neighbours = min(max(others, 1), MOST_NEIGHBOURS)
    return Parts(photos.by, len(trained), len(held_out), groups, neighbours, photos.left_out)


def _write(file: epath.Path, lines: list[str]) -> None:
    write_atomically(os.fspath(file), "".join(f"{line}\n" for line in lines))
