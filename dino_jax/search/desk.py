"""What the page asks: uploads and rows to hits, photographs and explanations; knows no HTTP."""

import contextlib
import functools
import io
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from dino_jax.data.decode import decode_image
from dino_jax.search.conditions import parse_condition
from dino_jax.search.fusion import fuse
from dino_jax.search.hits import Answer, find_hits
from dino_jax.search.index import Index
from dino_jax.search.metadata import Value
from dino_jax.search.mixture import USUAL_WEIGHT, Query, split, weigh
from dino_jax.search.origin import QueryEmbedders, mean_query
from dino_jax.search.photos import UPRIGHT, Photos, cut
from dino_jax.search.query import parse_box
from dino_jax.search.rerank import Reranker
from dino_jax.search.texts import TextEmbedder
from dino_jax.search.why import draw_why
from dino_jax.weights.model import Model

MOST_K = 200
MOST_PHOTOS = 8  # of one thing
MOST_TEXT = 1000  # characters of a text
MOST_PIXELS = 50_000_000  # of an upload: 150 MB once decoded
AT_ONCE, WAITING = 2, 16  # uploads that are decoded and embedded, and that wait for it
READ_AT_ONCE, KEPT = 4, 512  # photographs that are decoded at once; pictures kept in memory
SMALL, LARGE = 360, 1600  # longest side of a served picture in pixels
Asked = Mapping[str, str]


class NotFoundError(ValueError):
    """There is no such row."""


class BusyError(RuntimeError):
    """As many uploads wait as may."""


class Desk:
    """Answers for one open index; safe to use from many threads."""

    def __init__(
        self,
        index: Index,
        model: Model,
        photos: Photos,
        max_pixels: int,
        others: Sequence[Model] = (),
        texts: TextEmbedder | None = None,
        rerank: int = 0,
    ):
        """Compiles the network, so that the first answer takes no longer than others.

        Args:
          index: an open index.
          model: its model.
          photos: files of its photographs.
          max_pixels: of a photograph of the index.
          others: its further models.
          texts: makes queries of texts; None: nothing reads them.
          rerank: nearest hits of photographs that are compared patch by patch; 0: none.
        """
        self._index, self._model, self._photos = index, model, photos
        self._max_pixels, self._origin = max_pixels, index.manifest.origin
        self._texts, size = texts, self._origin.image_size
        self._again = Reranker(model, size, photos, max_pixels, rerank) if rerank else None
        models = (model, *others)
        self._embed = QueryEmbedders(models, index.manifest, index.folder, 1)
        self._turn, self._places = threading.Lock(), threading.BoundedSemaphore(AT_ONCE)
        self._inside, self._count = 0, threading.Lock()
        self._reading = threading.BoundedSemaphore(READ_AT_ONCE)
        self._jpeg = functools.lru_cache(KEPT)(self._make_jpeg)
        black = np.zeros((self._origin.image_size, self._origin.image_size, 3), np.uint8)
        self._embed([black])
        draw_why(model, self._origin.image_size, black, black)
        index.search(np.ones(index.manifest.dim), 1)
        if texts is not None:
            texts(["a photo"])

    def info(self) -> dict[str, Any]:
        """What the page says of the index."""
        return {
            "photos": len(self._index),
            "columns": list(self._index.columns),
            "model": self._origin.model,
            "size": self._origin.image_size,
            "models": len(self._index.manifest.origins),
            "texts": self._texts is not None,
        }

    def search_upload(self, uploads: Sequence[bytes], asked: Asked) -> dict[str, Any]:
        """Hits of uploaded photographs of one thing, or of the box of one that `asked` names."""
        begin, rows = time.monotonic(), self._others(asked)
        self._require_few(len(uploads) + len(rows), asked)
        vectors, seen = [self._index.vector(row) for row in rows], self._looks(rows)
        with self._admitted():
            for data in uploads:  # one after the other: each may have 50 million pixels
                pixels = _boxed(decode_image(data, MOST_PIXELS, UPRIGHT), asked)
                with self._turn:
                    vectors.append(self._embed([pixels])[0])
                seen += [self._again.view(pixels)] if self._again else []
            return self._answer(mean_query(np.stack(vectors)), asked, rows, begin, seen)

    def search_row(self, row: int, asked: Asked) -> dict[str, Any]:
        """Hits of a photograph of the index, or of several of one thing, without themselves."""
        begin, rows = time.monotonic(), [row, *self._others(asked)]
        self._require(row)
        self._require_few(len(rows), asked)
        if "box" in asked:
            with self._admitted():
                pixels = _boxed(self._read(row), asked)
                seen = [self._again.view(pixels)] if self._again else []
                with self._turn:
                    vector = self._embed([pixels])[0]
                return self._answer(vector, asked, rows, begin, seen)
        vector = mean_query(self._index.vectors(rows))
        if "text" not in asked and self._again is None:
            return self._answer(vector, asked, rows, begin)
        with self._admitted():
            return self._answer(vector, asked, rows, begin, self._looks(rows))

    def search_text(self, asked: Asked) -> dict[str, Any]:
        """Hits of a text alone."""
        begin = time.monotonic()
        with self._admitted():
            return self._find(self._ask_text(asked), asked, [], begin)

    def photo(self, row: int, large: bool) -> bytes:
        """A photograph as JPEG, with nothing of its file but the pixels."""
        self._require(row)
        return self._jpeg(row, LARGE if large else SMALL)

    def why_upload(self, data: bytes, row: int, asked: Asked) -> bytes:
        """An upload and a hit with their like patches, as JPEG."""
        self._require(row)
        with self._admitted():
            return self._why(_boxed(decode_image(data, MOST_PIXELS, UPRIGHT), asked), row)

    def why_row(self, query: int, row: int, asked: Asked) -> bytes:
        """The same for a photograph of the index."""
        self._require(query)
        self._require(row)
        with self._admitted():
            return self._why(_boxed(self._read(query), asked), row)

    def _make_jpeg(self, row: int, longest: int) -> bytes:
        with self._reading:
            return to_jpeg(self._read(row), longest)

    def _why(self, pixels: np.ndarray, row: int) -> bytes:
        other = self._read(row)
        with self._turn:
            drawn = draw_why(self._model, self._origin.image_size, pixels, other)
        return to_jpeg(drawn, LARGE)

    def _looks(self, rows: Sequence[int]) -> list[np.ndarray]:
        """Photographs of the index to compare hits with, if they are compared by patches."""
        again = self._again
        return [again.view(self._read(row)) for row in rows] if again else []

    def _answer(
        self,
        vector: np.ndarray,
        asked: Asked,
        rows: Sequence[int],
        begin: float,
        seen: Sequence[np.ndarray] = (),
    ) -> dict[str, Any]:
        """Hits of the vector of a photograph, and of a text if there is one, too."""
        dims = self._index.manifest.dims
        weight = _share(asked, "weight", USUAL_WEIGHT)
        query = weigh(split(vector, dims), weight)
        if "text" in asked:
            text_weight = _share(asked, "text_weight", USUAL_WEIGHT)
            query = fuse(self._index, query, self._ask_text(asked), text_weight)
            seen = ()  # words have no patches
        return self._find(query, asked, rows, begin, seen)

    def _ask_text(self, asked: Asked) -> Query:
        text = asked.get("text", "").strip()
        if self._texts is None:
            raise ValueError("this index has no model that reads texts")
        if not text or len(text) > MOST_TEXT:
            raise ValueError(f"a text has 1 to {MOST_TEXT:,} characters, this has {len(text):,}")
        with self._turn:
            return self._texts([text])

    def _find(
        self,
        query: Query,
        asked: Asked,
        rows: Sequence[int],
        begin: float,
        seen: Sequence[np.ndarray] = (),
    ) -> dict[str, Any]:
        k = int(asked.get("k", "20"))
        if not 1 <= k <= MOST_K:
            raise ValueError(f"k must be between 1 and {MOST_K}, got {k}")
        lines = [line for line in asked.get("where", "").splitlines() if line.strip()]
        allowed = self._index.allowed([parse_condition(line) for line in lines])
        if rows:
            allowed = allowed.copy()
            allowed[list(rows)] = 0
        again = self._again if seen else None
        wanted = max(k, again.candidates if again else 0)
        found = find_hits(self._index, query.vector, wanted, allowed, asked.get("group", ""))
        answer = query.rescored(found)
        if again:
            with self._turn:
                answer = again(seen, answer, k)
        return describe(answer, time.monotonic() - begin)

    def _others(self, asked: Asked) -> list[int]:
        """Rows that show the same thing as the first photograph."""
        rows = [row_of(text) for text in asked["rows"].split(",")] if "rows" in asked else []
        for row in rows:
            self._require(row)
        return rows

    def _require_few(self, photos: int, asked: Asked) -> None:
        if photos > MOST_PHOTOS:
            raise ValueError(f"at most {MOST_PHOTOS} photos of one thing, got {photos}")
        if photos > 1 and "box" in asked:
            raise ValueError(f"a box is for one photo, {photos} were given")

    def _require(self, row: int) -> None:
        live = self._index.live
        if not (0 <= row < len(live) and live[row]):
            raise NotFoundError(f"the index has no row {row}")

    def _read(self, row: int) -> np.ndarray:
        return self._photos.read(self._index.row(row).name, self._max_pixels)

    @contextlib.contextmanager
    def _admitted(self) -> Iterator[None]:
        """A place among those who decode and embed; raises a BusyError if too many wait."""
        with self._count:
            if self._inside >= AT_ONCE + WAITING:
                raise BusyError("too many searches at once; try again in a moment")
            self._inside += 1
        try:
            with self._places:
                yield
        finally:
            with self._count:
                self._inside -= 1


def row_of(text: str) -> int:
    """The number of a row, as a page writes it; raises a NotFoundError for anything else."""
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise NotFoundError(f"a row is a number, got {text[:16]!r}")
    return int(text)


def describe(answer: Answer, seconds: float) -> dict[str, Any]:
    """An answer as JSON has it."""
    hits = [{**hit._asdict(), "values": _texts(hit.values)} for hit in answer.hits]
    return {
        "hits": hits,
        "proven": answer.proven,
        "recall": round(answer.recall, 4),
        "searched": answer.searched,
        "seconds": round(seconds, 4),
    }


def _texts(values: Mapping[str, Value]) -> dict[str, str]:
    return {name: "" if value is None else str(value) for name, value in values.items()}


def _share(asked: Asked, name: str, usual: float) -> float:
    """A number from 0 to 1."""
    if name not in asked:
        return usual
    try:
        value = float(asked[name])
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is a number from 0 to 1, got {asked[name][:16]!r}")
    return value


def _boxed(pixels: np.ndarray, asked: Asked) -> np.ndarray:
    return cut(pixels, parse_box(asked["box"])) if "box" in asked else pixels


def to_jpeg(pixels: np.ndarray, longest: int) -> bytes:
    """A picture [H, W, 3] uint8, made smaller if a side is longer."""
    image = Image.fromarray(pixels)
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    target = io.BytesIO()
    image.save(target, "JPEG", quality=88)
    return target.getvalue()
