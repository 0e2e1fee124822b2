"""The model of an index: that a query is made as its rows were, by the same weights."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from dino_jax.commands.compilation_cache import say_programs
from dino_jax.embedding.adapter import Adapted, load_adapter, sum_projection
from dino_jax.embedding.embed import make_local_mesh
from dino_jax.embedding.embedder import make_embedder
from dino_jax.embedding.projection import Projection, load_projection
from dino_jax.search.manifest import ADAPTER, PROJECTION, Manifest, Origin
from dino_jax.search.mixture import join
from dino_jax.weights.model import Model, load
from dino_jax.weights.provenance import fingerprint

Change = Callable[[jax.Array], jax.Array]  # of features [..., D] to what an index has, [..., d]


def fingerprint_of(model: Model) -> str:
    """32 hexadecimal digits that tell the weights of a model from others, wherever they lie."""
    return fingerprint(model.variables)


def open_models(manifest: Manifest, arguments: argparse.Namespace, folder: Path) -> list[Model]:
    """Loads all models of an index, as `open_model`.

    Args:
      manifest: of the index.
      arguments: with `model`, `step`, and `other`, where the second one is now.
      folder: of the index.

    Raises:
      ValueError: as `open_model`, or if there is no second one and it is given.
      OSError: if one is not there.
    """
    if arguments.other and not manifest.others:
        raise ValueError(
            f"--other={arguments.other}: {folder} has one model, {manifest.origin.model}"
        )
    models = [open_model(manifest, arguments.model, arguments.step, folder)]
    places = range(1, len(manifest.origins))
    return models + [open_model(manifest, arguments.other, None, folder, i) for i in places]


def open_model(
    manifest: Manifest, path: str, step: int | None, folder: Path, place: int = 0
) -> Model:
    """Loads a model with which the rows of an index were made.

    Args:
      manifest: of the index.
      path: where it is now; "": where it was when the index was built.
      step: checkpoint of a workdir; None: that of the index, or the newest of `path`.
      folder: of the index, for messages.
      place: which of several models.

    Raises:
      ValueError: if it is another model: names both.
      OSError: if it is not there.
    """
    option = "--other" if place else "--model"
    return open_named_model(manifest.origins[place], path, step, folder, option)


def open_named_model(
    origin: Origin, path: str, step: int | None, folder: Path, option: str = "--model"
) -> Model:
    """The same by the origin of vectors and the option that names its model, see `open_model`."""
    if not path and not origin.path:
        raise ValueError(
            f"{folder} was built from vectors and does not know its model, {origin.model!r}; pass "
            f"{option}=PATH"
        )
    say_programs()
    model = load(path or origin.path, step if path else origin.step)
    require_color(model)
    require_same(origin, model, folder)
    return model


def require_same(origin: Origin, model: Model, folder: Path) -> None:
    """Checks that a model is that of an index: by its weights, or, where they are not known, title.

    Raises:
      ValueError: names both.
    """
    mine = fingerprint_of(model) if origin.fingerprint else ""
    same = mine == origin.fingerprint if origin.fingerprint else model.title == origin.model
    if not same:
        raise ValueError(
            f"{folder} was made by another model: {origin.model} ({origin.fingerprint or 'no'} "
            f"fingerprint), this one is {model.title} ({mine or 'not compared'}); pass the same "
            "--model, or build an index for this one"
        )


def require_color(model: Model) -> None:
    """Checks that a model takes photographs.

    Raises:
      ValueError: if it takes another number of channels than 3.
    """
    channels = model.network.backbone.in_channels
    if channels != 3:
        raise ValueError(
            f"{model.title} takes images of {channels} channels; search reads photos of 3 (red, "
            "green, blue). dino-jax embed makes vectors of such images, and search build "
            "--from=EMBEDDED an index of them that --row, duplicates and evaluate take"
        )


class QueryEmbedder:
    """Makes vectors of photographs as the index has them; compiles once, for one batch size."""

    def __init__(self, model: Model, origin: Origin, change: Change | None, batch: int):
        """Compiles nothing yet.

        Args:
          model: of the index.
          origin: how its rows were made.
          change: what `open_change` gives for the index.
          batch: photographs that are embedded at once.
        """
        mesh = make_local_mesh()
        self._view, self._size = model.view, origin.image_size
        self._batch = -(-batch // mesh.size) * mesh.size
        self._embed = make_embedder(
            model,
            mesh,
            tokens=origin.tokens,
            layers=origin.layers,
            projection=change,
            normalize=True,
        )

    def __call__(self, photos: Sequence[np.ndarray]) -> np.ndarray:
        """[n, d] float32 vectors of length 1 of n photographs, each [H, W, 3] uint8."""
        views = [self._view(photo, self._size) for photo in photos]
        found = []
        for start in range(0, len(views), self._batch):
            some = views[start : start + self._batch]
            full = np.stack(some + [some[-1]] * (self._batch - len(some)))
            found.append(np.asarray(self._embed(full))[: len(some)])
        return np.concatenate(found)


def open_projection(manifest: Manifest, folder: Path) -> Projection | None:
    """The projection of an index, if it has one."""
    file = manifest.single.get(PROJECTION)
    return load_projection(epath.Path(folder / file.name)) if file else None


def open_change(manifest: Manifest, folder: Path) -> Change | None:
    """What an index does to features: a projection, an adapter or both; None for nothing."""
    projection, file = open_projection(manifest, folder), manifest.single.get(ADAPTER)
    return Adapted(projection, load_adapter(folder / file.name)) if file else projection


def describe_vectors(origin: Origin, projection: Projection | None) -> dict[str, Any]:
    """What an adapter has to know of the vectors that it takes, see `require_same_origin`."""
    return {
        "model": origin.model,
        "fingerprint": origin.fingerprint,
        "image_size": origin.image_size,
        "tokens": origin.tokens,
        "layers": origin.layers,
        "projection": sum_projection(projection),
        "dim": origin.dim,
    }


class QueryEmbedders:
    """Makes the vectors of all models of an index."""

    def __init__(self, models: Sequence[Model], manifest: Manifest, folder: Path, batch: int):
        """As `QueryEmbedder`, of each; what the index does to features is for the first."""
        changes = [open_change(manifest, folder), *(None for _ in manifest.others)]
        self._each = [
            QueryEmbedder(model, origin, change, batch)
            for model, origin, change in zip(models, manifest.origins, changes, strict=True)
        ]

    def __call__(self, photos: Sequence[np.ndarray]) -> np.ndarray:
        """[n, d] rows of n photographs, as `mixture.join` puts them together."""
        return join([embed(photos) for embed in self._each])


def mean_query(vectors: np.ndarray) -> np.ndarray:
    """[n, d] vectors of photographs of one thing, of length 1, to the one that stands for them."""
    return np.mean(vectors.astype(np.float64), axis=0)
