"""Quality of the features of held-out images without any labels."""

from typing import Any

import numpy as np

from dino_jax.evaluation.neighbours import nearest_neighbours, shared_neighbours
from dino_jax.step.health import effective_rank


class Proxies:
    """Compares the teacher with itself, with the student and with its earlier snapshot.

    Attributes:
      k: neighbours that are compared.
    """

    def __init__(self, k: int):
        """Has seen no snapshot yet."""
        self.k = k
        self._before: np.ndarray | None = None

    def __call__(self, teacher: np.ndarray, student: np.ndarray) -> dict[str, float]:
        """Measures a snapshot.

        Args:
          teacher: [N, D] features.
          student: [N, D] of the same images.

        Returns:
          "proxy/rankme": effective rank of the teacher's features (arXiv:2210.02885);
          "proxy/agreement": mean share of the k nearest neighbours that an image has in common in
          both networks; "proxy/stability": the same for the teacher and its snapshot of the call
          before, absent at the first call.
        """
        neighbours = nearest_neighbours(teacher, self.k)
        rows = teacher.astype(np.float64)
        results = {
            "proxy/rankme": effective_rank(rows.T @ rows, precision=np.finfo(np.float64).eps),
            "proxy/agreement": shared_neighbours(neighbours, nearest_neighbours(student, self.k)),
        }
        if self._before is not None:
            results["proxy/stability"] = shared_neighbours(neighbours, self._before)
        self._before = neighbours
        return results


def check_proxies(config: Any, images: int) -> None:
    """Checks that every image has enough others.

    Args:
      config: the section `knn`.
      images: of the held-out part.

    Raises:
      ValueError: if there are too few of them.
    """
    count = min(images, config.max_test_images)
    if count <= config.k[0]:
        raise ValueError(
            f"config.knn.measure={config.measure!r} compares the {config.k[0]} nearest neighbours "
            f"of every image (config.knn.k), but config.knn.test has {count} images; add images or "
            f"try --config.knn.k='({max(count - 1, 1)},)'"
        )
