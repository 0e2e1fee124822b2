"""Several sources as one, each with its share of the images."""

import math
from collections.abc import Mapping

import numpy as np

from dino_jax.data.sources.base import UNLABELED, Blocks, ImageSource, Record


class MixtureSource:
    """Sources mixed by weight.

    An epoch is as long as it takes to show every image at least once and each source in
    proportion to its weight: the source that is the largest for its weight is shown exactly once,
    the others are repeated. Index i is the same image in every epoch, on every host; the shuffle of
    the stream mixes the sources.

    Source k takes c_k consecutive indices. The first whole passes over its images come in order;
    the rest of c_k is spread evenly over the source. So in one epoch its images appear p or
    p + 1 times with p = c_k // n_k. Where this matters (p = 1 and much is left over), choose
    weights that make c_k / n_k whole.

    Classes of equal name are one class; their order is that of first appearance.
    """

    def __init__(self, sources: Mapping[str, ImageSource], weights: Mapping[str, float]):
        """Mixes sources.

        Args:
          sources: sources by name; the names appear in messages and image names.
          weights: weights > 0, by the same names; only their ratios count.

        Raises:
          ValueError: without sources, or for a weight that is not positive and finite.
        """
        if not sources:
            raise ValueError(
                "a mixture needs sources: sources.NAME = images(...) in its section of the config"
            )
        for name in sources:
            if not 0 < weights[name] < math.inf:
                raise ValueError(f"the weight of {name!r} must be positive, got {weights[name]}")
        self._names = tuple(sources)
        self._sources = tuple(sources.values())
        sizes = [len(source) for source in self._sources]
        self._blocks = Blocks(_epoch_counts(sizes, [weights[name] for name in self._names]))
        self.class_names, self._labels = _merge_classes(self._sources)

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, index: int) -> Record:
        part, inner = self._locate(index)
        record = self._sources[part][inner]
        label = record["label"]
        return {
            **record,
            "label": UNLABELED if label == UNLABELED else int(self._labels[part][label]),
            "name": f"{self._names[part]}/{record['name']}",
        }

    def name(self, index: int) -> str:
        """The name inside the source, after the source's own."""
        part, inner = self._locate(index)
        return f"{self._names[part]}: {self._sources[part].name(inner)}"

    def parts(self) -> dict[str, ImageSource]:
        """The sources by name."""
        return dict(zip(self._names, self._sources, strict=True))

    def _locate(self, index: int) -> tuple[int, int]:
        """The source, and the index of its image."""
        part, place = self._blocks.locate(index)
        size = len(self._sources[part])
        count = self._blocks.size(part)
        in_whole_passes = count // size * size
        if place < in_whole_passes:
            return part, place % size
        return part, (place - in_whole_passes) * size // (count - in_whole_passes)


def _epoch_counts(sizes: list[int], weights: list[float]) -> list[int]:
    """Number of reads of each source in one epoch; at least its size, in proportion to weights."""
    passes = max(size / weight for size, weight in zip(sizes, weights, strict=True))
    return [max(size, round(passes * weight)) for size, weight in zip(sizes, weights, strict=True)]


def _merge_classes(
    sources: tuple[ImageSource, ...],
) -> tuple[tuple[str, ...], tuple[np.ndarray, ...]]:
    """The classes of all sources, and for each source the merged label of each of its labels."""
    merged: dict[str, int] = {}
    for source in sources:
        for name in source.class_names:
            merged.setdefault(name, len(merged))
    labels = tuple(
        np.array([merged[name] for name in source.class_names], np.int32) for source in sources
    )
    return tuple(merged), labels
