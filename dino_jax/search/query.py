"""The work of `dino-jax search query`: the photographs most like one, or several of one thing."""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dino_jax.commands.command_line import run_command
from dino_jax.data.decode import read_image_file
from dino_jax.foreign.names import printable
from dino_jax.search.conditions import parse_condition
from dino_jax.search.fusion import fuse
from dino_jax.search.hits import Answer, draw_sheet, find_hits, to_lines, to_table
from dino_jax.search.index import Index, open_index
from dino_jax.search.manifest import Manifest
from dino_jax.search.mixture import USUAL_WEIGHT, Query, split, weigh
from dino_jax.search.photos import UPRIGHT, Photos, cut, views_of
from dino_jax.workdir.paths import written_whole

PICTURES = (".png", ".jpg", ".jpeg")


class Asked(NamedTuple):
    """What is looked for.

    Attributes:
      query: what is looked for.
      shown: captions and pixels for the contact sheet.
      row: row of the index that is the query itself and no answer, None for files.
    """

    query: Query
    shown: list[tuple[str, np.ndarray]]
    row: int | None = None


def parse_box(text: str) -> tuple[int, int, int, int]:
    """ "10,20,110,220" -> (10, 20, 110, 220).

    Raises:
      ValueError: if it is anything else.
    """
    try:
        left, top, right, bottom = (int(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"--box={text!r}: expected X0,Y0,X1,Y1 in pixels of the photo") from error
    return left, top, right, bottom


def ask(index: Index, arguments: argparse.Namespace, photos: Photos) -> Asked:
    """Makes the query of a command line.

    Raises:
      ValueError: if it names no photograph, or the model is another one.
      OSError: if a file is not there.
    """
    by_photo = bool(arguments.images) + bool(arguments.row)
    if by_photo > 1 or not (by_photo or arguments.text):
        raise ValueError(
            "what is looked for? Pass either photos or --row=NAME of the index, or --text='…' "
            "(beside them, too)"
        )
    require_weight(index.manifest, arguments.weight)
    if not by_photo:
        if arguments.box or arguments.views:
            raise ValueError("--box and --views are for photos, and there is none")
        return Asked(ask_text(index, arguments), [])
    seen = ask_photos(index, arguments, photos)
    if not arguments.text:
        return seen
    text = ask_text(index, arguments)
    return seen._replace(query=fuse(index, seen.query, text, arguments.text_weight))


def ask_photos(index: Index, arguments: argparse.Namespace, photos: Photos) -> Asked:
    """The query that photographs, or a row of the index, are; raises as `ask`."""
    if arguments.box and len(arguments.images) > 1:
        raise ValueError(f"--box is for one photo, {len(arguments.images)} were given")
    box = parse_box(arguments.box) if arguments.box else None
    wants_pictures = arguments.out.endswith(PICTURES)
    if arguments.row:
        number = index.find(arguments.row)
        if box is None and not arguments.views:
            shown = [(arguments.row, photos.read(arguments.row))] if wants_pictures else []
            return Asked(_weighed(index, index.vector(number), arguments), shown, number)
        pixels = [photos.read(arguments.row, arguments.max_pixels)]
    else:
        number = None
        limit = arguments.max_pixels
        pixels = [read_image_file(path, limit, UPRIGHT) for path in arguments.images]
    names = [printable(Path(path).name) for path in arguments.images] or [arguments.row]
    if box is not None:
        pixels = [cut(pixels[0], box)]
    seen = [view for one in pixels for view in views_of(one, arguments.views)]
    vector = _weighed(index, embed_query(index, seen, arguments), arguments)
    captions = [f"query {name}" for name in names]
    return Asked(vector, list(zip(captions, pixels, strict=True)), number)


def _weighed(index: Index, vector: np.ndarray, arguments: argparse.Namespace) -> Query:
    """The query that a row of the index, or one like it, is."""
    weight = USUAL_WEIGHT if arguments.weight is None else arguments.weight
    return weigh(split(vector, index.manifest.dims), weight)


def require_weight(manifest: Manifest, weight: float | None) -> None:
    """Checks that a weight has something to weigh.

    Raises:
      ValueError: if there is one model.
    """
    if weight is not None and not manifest.others:
        raise ValueError(
            f"--weight={weight:g} is between two models, and the index has one: "
            f"{manifest.origin.model}; search build takes a second one as --other"
        )


def embed_query(
    index: Index, pixels: list[np.ndarray], arguments: argparse.Namespace
) -> np.ndarray:
    """[d] of photographs of one thing."""
    # The models: seconds that --row saves.
    from dino_jax.search.origin import QueryEmbedders, mean_query, open_models

    manifest, folder = index.manifest, index.folder
    models = open_models(manifest, arguments, folder)
    return mean_query(QueryEmbedders(models, manifest, folder, len(pixels))(pixels))


def ask_text(index: Index, arguments: argparse.Namespace) -> Query:
    """The query that texts are: the mean of their unit vectors."""
    from dino_jax.search.texts import TextEmbedder

    paths = (arguments.model, arguments.other)
    return TextEmbedder(index.manifest, index.folder, paths, arguments.step)(arguments.text)


def query(arguments: argparse.Namespace) -> str:
    """Finds, and writes the file if one is wanted; returns what to print."""
    if arguments.out and not arguments.out.endswith((*PICTURES, ".jsonl")):
        raise ValueError(f"--out={arguments.out} must end with .jsonl, {', '.join(PICTURES)}")
    index = open_index(arguments.index, not arguments.unchecked, arguments.approximate)
    allowed = index.allowed([parse_condition(text) for text in arguments.where])
    photos = Photos(arguments.photos or index.manifest.photos)
    asked = ask(index, arguments, photos)
    if asked.row is not None:
        allowed = allowed.copy()
        allowed[asked.row] = 0
    wanted = max(arguments.k, arguments.rerank or 0)
    found = find_hits(index, asked.query.vector, wanted, allowed, arguments.group)
    answer, meaning = asked.query.rescored(found), meaning_of(arguments)
    if arguments.rerank:
        answer, meaning = rerank(index, arguments, photos, asked, answer)
    if not arguments.out:
        return to_table(answer, meaning)
    with written_whole(Path(arguments.out).expanduser()) as path:
        if arguments.out.endswith(".jsonl"):
            Path(path).write_text(to_lines(answer))
        else:
            save_picture(draw_sheet(asked.shown, answer, photos), path, arguments.out)
    return f"{arguments.out}: {len(answer.hits)} photos"


def rerank(
    index: Index, arguments: argparse.Namespace, photos: Photos, asked: Asked, answer: Answer
) -> tuple[Answer, str]:
    """The best hits by their patches, and what their scores are.

    Raises:
      ValueError: if there is no photograph to compare them with.
    """
    from dino_jax.search.origin import open_model
    from dino_jax.search.rerank import Reranker, meaning_of_patches

    if arguments.text:
        raise ValueError("--rerank compares photos with photos, and there are words: leave one out")
    pixels = [one for _, one in asked.shown]
    if asked.row is not None and not pixels:
        pixels = [photos.read(index.row(asked.row).name, arguments.max_pixels)]
    model = open_model(index.manifest, arguments.model, arguments.step, index.folder)
    size = index.manifest.origin.image_size
    again = Reranker(model, size, photos, arguments.max_pixels, arguments.rerank)
    best = again([again.view(one) for one in pixels], answer, arguments.k)
    return best, meaning_of_patches(best, min(arguments.rerank, len(answer.hits)))


def meaning_of(arguments: argparse.Namespace) -> str:
    """What the scores of a query with words are; "" for cosines of photographs."""
    if not arguments.text:
        return ""
    if arguments.images or arguments.row:
        return "scores are in deviations above the mean of all photos, of the photo and the text"
    return "a text and its photo have low cosines, often 0.2 to 0.35: the order counts"


def save_picture(pixels: np.ndarray, path: str, named: str) -> None:
    """Writes a picture in the format that `named` ends with to another path."""
    picture_format = "PNG" if named.endswith(".png") else "JPEG"
    Image.fromarray(pixels).save(path, picture_format, quality=90)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    return run_command(lambda: query(arguments))
