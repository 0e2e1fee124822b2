"""Texts as queries: which model of an index reads them, and their vectors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dino_jax.search.manifest import ADAPTER, Manifest, Origin
from dino_jax.search.mixture import Query, weigh_alone
from dino_jax.search.origin import open_model
from dino_jax.weights.text_model import has_text, load_text


def find_reader(
    manifest: Manifest, paths: Sequence[str] = (), step: int | None = None
) -> tuple[int, str, int | None] | None:
    """The model of an index that reads texts.

    Args:
      manifest: of the index.
      paths: where its models are now, "" for where they were.
      step: checkpoint of the first one.

    Returns:
      Its place, where it is, and its checkpoint; None if there is none.

    Raises:
      OSError: if a model cannot be read.
    """
    given = [*paths, *[""] * len(manifest.origins)]
    for place, origin in enumerate(manifest.origins):
        path = given[place] or origin.path
        if path and has_text(path):
            return place, path, origin.step if not given[place] else None if place else step
    return None


class TextEmbedder:
    """Makes queries of texts, by the model of an index that reads them.

    Attributes:
      place: of that model.
    """

    def __init__(
        self,
        manifest: Manifest,
        folder: Path,
        paths: Sequence[str] = (),
        step: int | None = None,
        checked: bool = True,
    ):
        """Loads the text tower; the others as `find_reader`.

        Args:
          manifest, paths, step: as `find_reader`.
          folder: of the index, for messages.
          checked: whether its images are compared with those of the index, by their weights.

        Raises:
          ValueError: if no model reads texts, or the vectors of the index are not comparable.
          OSError: if a model cannot be read.
        """
        found = find_reader(manifest, paths, step)
        if found is None:
            names = " and ".join(origin.model for origin in manifest.origins)
            raise ValueError(
                f"{folder} was made by {names}, which read no texts; build an index with an "
                "imported CLIP or SigLIP (search build INDEX MODEL PHOTOS --other=CLIP)"
            )
        self.place, path, step = found
        self._dims = manifest.dims
        adapted = ADAPTER in manifest.single and self.place == 0
        _require_comparable(manifest.origins[self.place], adapted, folder)
        if checked:
            open_model(manifest, path, step, folder, self.place)
        self._embed = load_text(path, step)

    def __call__(self, texts: Sequence[str]) -> Query:
        """The query of several texts that say the same: the mean of their unit vectors."""
        mean = np.mean(self._embed(texts).astype(np.float64), axis=0)
        return weigh_alone(mean, self.place, self._dims)


def _require_comparable(origin: Origin, adapted: bool, folder: Path) -> None:
    if adapted:
        raise ValueError(
            f"{folder} has an adapter: texts lie beside what the model gives without it"
        )
    if (origin.tokens, origin.layers, origin.reduced) != ("cls", 1, False):
        reduced = ", reduced" if origin.reduced else ""
        raise ValueError(
            f"{folder} holds --tokens={origin.tokens} of --layers={origin.layers}{reduced}: texts "
            "lie beside --tokens=cls of the last layer alone; build the index again without these"
        )
