"""The revisited Oxford and Paris data sets (arXiv:1803.11285), in their published layout.

FOLDER/gnd_roxford5k.pkl (or gnd_rparis6k.pkl) and FOLDER/jpg/NAME.jpg.
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from dino_jax.evaluation.plain_pickle import read_plain_pickle
from dino_jax.evaluation.ranking import Query
from dino_jax.foreign.files import read_bytes

MAX_BYTES = 1 << 28  # of the ground truth; the published ones have a megabyte
SETUPS = {  # what counts as right, and what is left out
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}


class Revisited(NamedTuple):
    """A data set.

    Attributes:
      name: such as "roxford5k".
      database: N files.
      queries: Q files.
      boxes: [Q, 4] left, top, right, bottom of the building in a query image, in pixels.
      truth: for each query, "easy", "hard" and "junk" to indices into the database.
    """

    name: str
    database: list[str]
    queries: list[str]
    boxes: np.ndarray
    truth: list[dict[str, list[int]]]


def read_revisited(folder: str) -> Revisited:
    """Reads the ground truth and finds the images.

    Args:
      folder: local or gs://.

    Raises:
      OSError: if the folder, its ground truth or images are missing.
      ValueError: if the ground truth is malformed.
    """
    root = epath.Path(folder).expanduser()
    files = sorted(root.glob("gnd_*.pkl"))
    if len(files) != 1:
        raise FileNotFoundError(
            f"{root} holds {len(files)} files gnd_*.pkl, expected one: --data=FOLDER is the folder "
            "with gnd_roxford5k.pkl (or gnd_rparis6k.pkl) and jpg/"
        )
    try:
        content = read_plain_pickle(read_bytes(files[0], MAX_BYTES))
        database, queries = (_names(content[key]) for key in ("imlist", "qimlist"))
        truth = [
            {kind: _indices(q[kind]) for kind in ("easy", "hard", "junk")} for q in content["gnd"]
        ]
        boxes = np.array([q["bbx"] for q in content["gnd"]], np.float64).reshape(-1, 4)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{files[0]} is not a ground truth of revisited Oxford or Paris (imlist, qimlist, gnd "
            f"with bbx, easy, hard, junk): {type(error).__name__}: {error}"
        ) from error
    largest = max((i for q in truth for kind in q.values() for i in kind), default=-1)
    if len(queries) != len(truth) or largest >= len(database):
        raise ValueError(
            f"{files[0]}: {len(queries)} queries with {len(truth)} ground truths, which name image "
            f"{largest} of {len(database)}"
        )
    _check_files(root / "jpg", [*database, *queries])
    images, asked = (
        [str(root / "jpg" / f"{name}.jpg") for name in names] for names in (database, queries)
    )
    return Revisited(files[0].stem.removeprefix("gnd_"), images, asked, boxes, truth)


def queries_of(data: Revisited, setup: str, unreadable: Collection[int] = ()) -> list[Query]:
    """Expected results of each query.

    Args:
      data: the data set.
      setup: "medium" or "hard", a key of `SETUPS`.
      unreadable: database images that are left out.
    """
    positive_kinds, junk_kinds = SETUPS[setup]
    lost = set(unreadable)
    return [
        Query(
            sorted({i for kind in positive_kinds for i in truth[kind]} - lost),
            sorted({i for kind in junk_kinds for i in truth[kind]} | lost),
        )
        for truth in data.truth
    ]


def _names(values: Any) -> list[str]:
    if not all(isinstance(value, str) and value for value in values):
        raise ValueError("names of images must be text")
    return list(values)


def _indices(values: Any) -> list[int]:
    indices = np.asarray(values, np.int64).reshape(-1)
    if len(indices) and indices.min() < 0:
        raise ValueError(f"image {indices.min()} of the database")
    return indices.tolist()


def _check_files(folder: epath.Path, names: Sequence[str]) -> None:
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    missing = sorted({f"{name}.jpg" for name in names} - there)
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {len(missing)} of the {len(set(names))} images that the ground truth "
            f"names: {missing[:5]}"
        )
