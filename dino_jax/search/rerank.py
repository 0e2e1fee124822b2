"""The best hits once more, by their patches: a thing among others is found by its parts.

The score is the mean over the patches of the query of their best cosine among those of the hit.
Vectors choose the candidates; what is not among them is not found. Their files are read and go
through the network at every query.
"""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dino_jax.data.decode import UnreadableImageError
from dino_jax.search.hits import Answer, Hit
from dino_jax.search.photos import Photos
from dino_jax.weights.model import Model

AT_ONCE = 8  # photographs that go through the network together
UNREAD = -1.0  # score of a photograph that cannot be read: the least cosine


class Reranker:
    """Orders hits by patches; compiles once."""

    def __init__(self, model: Model, size: int, photos: Photos, max_pixels: int, candidates: int):
        """Compiles nothing yet.

        Args:
          model: of the index.
          size: side of what the network sees, in pixels.
          photos: files of the index.
          max_pixels: of a photograph.
          candidates: hits that are looked at.
        """
        self._model, self._photos, self._max_pixels = model, photos, max_pixels
        patch = model.network.backbone.patch_size
        self._side, self.candidates = size // patch * patch, candidates

        @jax.jit
        def match(query: jax.Array, hits: jax.Array) -> jax.Array:
            """Scores [n] of hits [n, P, D] for a query [Q, D], all of any length."""
            similar = jnp.einsum("qd,npd->nqp", _unit(query), _unit(hits), precision="highest")
            return jnp.mean(jnp.max(similar, axis=2), axis=1)

        self._match = match

    def view(self, pixels: np.ndarray) -> np.ndarray:
        """[S, S, 3] uint8 of a photograph [H, W, 3], as the network sees it."""
        return self._model.view(pixels, self._side)

    def __call__(self, queries: Sequence[np.ndarray], answer: Answer, k: int) -> Answer:
        """The best k hits by patches; photographs that cannot be read come last.

        Args:
          queries: views of photographs of one thing.
          answer: the nearest by their vectors; those after the first `candidates` are left out.
          k: number of hits.
        """
        hits = answer.hits[: self.candidates]
        query = np.concatenate(list(self._patches(list(queries)))).reshape(-1, self._width)
        seen: dict[int, np.ndarray] = {}
        for place, hit in enumerate(hits):
            try:
                seen[place] = self.view(self._photos.read(hit.name, self._max_pixels))
            except UnreadableImageError:
                continue
        scores = np.full(len(hits), UNREAD)
        places = list(seen)
        start = 0
        for patches in self._patches(list(seen.values())):
            some = places[start : start + len(patches)]
            scores[some] = np.asarray(self._match(query, patches))[: len(some)]
            start += len(patches)
        order = np.argsort(-scores, kind="stable")[:k].tolist()
        return answer._replace(
            hits=[_placed(hits[x], rank, float(scores[x])) for rank, x in enumerate(order, start=1)]
        )

    @property
    def _width(self) -> int:
        return self._model.network.backbone.embed_dim

    def _patches(self, views: list[np.ndarray]) -> Iterator[np.ndarray]:
        """[n, P, D] patches of views, at most `AT_ONCE` of them at a time."""
        for start in range(0, len(views), AT_ONCE):
            some = views[start : start + AT_ONCE]
            full = np.stack(some + [some[-1]] * (AT_ONCE - len(some)))
            yield np.asarray(self._model(full)["patches"], np.float32)[: len(some)]


def meaning_of_patches(answer: Answer, candidates: int) -> str:
    """What the scores are, and how many photographs have none."""
    unread = sum(hit.score == UNREAD for hit in answer.hits)
    lost = f"; {unread:,} of these can't be read, and are last" if unread else ""
    return (
        f"of these, the {candidates:,} nearest were compared patch by patch: scores are the mean "
        f"best cosine of the query's patches{lost}"
    )


def _placed(hit: Hit, rank: int, score: float) -> Hit:
    return hit._replace(rank=rank, score=score)


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
