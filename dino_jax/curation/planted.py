"""A finished tree of clusters, as the commands that take from it read it."""

from typing import NamedTuple

import numpy as np
from etils import epath

from dino_jax.curation.kmeans import sorted_members
from dino_jax.curation.pool import Pool, load_array
from dino_jax.curation.water_filling import Tree, grow
from dino_jax.curation.work import MOST_REPORT, PLAN, REPORT
from dino_jax.foreign.json_text import read_json
from dino_jax.workdir.paths import absolute_path


class Planted(NamedTuple):
    """A tree and its images.

    Attributes:
      pool: the rows that were clustered.
      rows: [n] int64, their numbers in the embedded folder.
      assignments: of images to level 1, of level 1 to level 2, ...
      tree: sizes and parents.
      members: of each cluster of level 1, places in `rows`, the nearest to the centroid first.
      centroids: [K, d] float64 of level 1.
    """

    pool: Pool
    rows: np.ndarray
    assignments: list[np.ndarray]
    tree: Tree
    members: list[np.ndarray]
    centroids: np.ndarray

    def cluster_at(self, level: int) -> np.ndarray:
        """[n] cluster of each image at a level, 1 for the lowest."""
        found = self.assignments[0]
        for above in self.assignments[1:level]:
            found = above[found]
        return found


def open_tree(place: str, option: str = "TREE") -> Planted:
    """Reads a folder of `dino-jax curate cluster`.

    Args:
      place: the folder.
      option: what names it on the command line.

    Raises:
      ValueError: if it is not complete, or its embedded folder has changed.
      OSError: if it is no such folder.
    """
    folder = epath.Path(place)
    if not (folder / PLAN).exists():
        raise FileNotFoundError(f"{option}={place} is no folder of dino-jax curate: no {PLAN}")
    plan = read_json(folder / PLAN, MOST_REPORT)
    if not isinstance(plan, dict) or plan.get("command") != "cluster":
        raise ValueError(f"{option}={place} is no tree: make one with dino-jax curate cluster")
    if not (folder / REPORT).exists():
        raise ValueError(f"{option}={place} is not complete; run the same curate cluster again")
    pool = Pool(str(plan["embedded"]), str(plan["of"]), "the embedded folder of the tree")
    if plan["rows of EMBEDDED"] != [len(pool), pool.digest]:
        raise ValueError(
            f"{plan['embedded']} has changed since {option}={place} was made of it; cluster again"
        )
    levels = range(1, len(plan["clusters"]) + 1)
    assignments = [load_array(f"{place}/level{one}-assignment.npy") for one in levels]
    centroids = [load_array(f"{place}/level{one}-centroids.npy") for one in levels]
    tree = grow(assignments, [len(one) for one in centroids])
    distances = load_array(f"{place}/distances.npy")
    members = sorted_members(assignments[0], distances, len(centroids[0]))
    rows = load_array(f"{place}/rows.npy")
    return Planted(pool, rows, assignments, tree, members, centroids[0])


def absolute(place: str) -> str:
    """A folder as the plan of a step names it: from the root, so that it is found from anywhere."""
    return str(absolute_path(place)) if place else ""
