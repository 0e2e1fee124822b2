"""What can be tuned, whatever it is: it takes steps, makes vectors and is kept."""

from typing import Any, Protocol

import numpy as np

STUDENT = "student"  # the role that learns


class Candidate(Protocol):
    """Something that learns; all processes call its methods alike."""

    def step(self, step: int, photos: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Learns from a batch.

        Args:
          step: updates before this one.
          photos: [B] numbers of photographs, all processes the same.
          labels: [B] int32.

        Returns:
          Numbers for the screen, "loss" among them.
        """
        ...

    def vectors(self, photos: np.ndarray) -> np.ndarray:
        """[n, d] float32 vectors of length 1 of photographs, as they are now."""
        ...

    def snapshot(self) -> Any:
        """What has been learned so far, in memory of the host."""
        ...
