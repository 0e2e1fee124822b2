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
from dino_jax.search.hits import draw_sheet, find_hits, to_lines, to_table
from dino_jax.search.index import Index, open_index
from dino_jax.search.photos import UPRIGHT, Photos, cut, views_of
from dino_jax.workdir.paths import written_whole

PICTURES = (".png", ".jpg", ".jpeg")


class Asked(NamedTuple):
    """What is looked for.

    Attributes:
      vector: [d].
      shown: captions and pixels for the contact sheet.
      row: row of the index that is the query itself and no answer, None for files.
    """

    vector: np.ndarray
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
    if bool(arguments.images) == bool(arguments.row):
        raise ValueError("what is looked for? Pass either photos or --row=NAME of the index")
    if arguments.box and len(arguments.images) > 1:
        raise ValueError(f"--box is for one photo, {len(arguments.images)} were given")
    box = parse_box(arguments.box) if arguments.box else None
    wants_pictures = arguments.out.endswith(PICTURES)
    if arguments.row:
        number = index.find(arguments.row)
        if box is None and not arguments.views:
            shown = [(arguments.row, photos.read(arguments.row))] if wants_pictures else []
            return Asked(index.vector(number), shown, number)
        pixels = [photos.read(arguments.row, arguments.max_pixels)]
    else:
        number = None
        limit = arguments.max_pixels
        pixels = [read_image_file(path, limit, UPRIGHT) for path in arguments.images]
    names = [printable(Path(path).name) for path in arguments.images] or [arguments.row]
    if box is not None:
        pixels = [cut(pixels[0], box)]
    seen = [view for one in pixels for view in views_of(one, arguments.views)]
    vector = embed_query(index, seen, arguments.model, arguments.step)
    captions = [f"query {name}" for name in names]
    return Asked(vector, list(zip(captions, pixels, strict=True)), number)


def embed_query(index: Index, pixels: list[np.ndarray], path: str, step: int | None) -> np.ndarray:
    """[d] of photographs of one thing."""
    # The model: seconds that --row saves.
    from dino_jax.search.origin import QueryEmbedder, mean_query, open_change, open_model

    manifest, folder = index.manifest, index.folder
    model = open_model(manifest, path, step, folder)
    change = open_change(manifest, folder)
    return mean_query(QueryEmbedder(model, manifest.origin, change, len(pixels))(pixels))


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
    answer = find_hits(index, asked.vector, arguments.k, allowed, arguments.group)
    if not arguments.out:
        return to_table(answer)
    with written_whole(Path(arguments.out).expanduser()) as path:
        if arguments.out.endswith(".jsonl"):
            Path(path).write_text(to_lines(answer))
        else:
            save_picture(draw_sheet(asked.shown, answer, photos), path, arguments.out)
    return f"{arguments.out}: {len(answer.hits)} photos"


def save_picture(pixels: np.ndarray, path: str, named: str) -> None:
    """Writes a picture in the format that `named` ends with to another path."""
    picture_format = "PNG" if named.endswith(".png") else "JPEG"
    Image.fromarray(pixels).save(path, picture_format, quality=90)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    return run_command(lambda: query(arguments))
