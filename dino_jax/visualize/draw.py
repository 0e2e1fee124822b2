"""The work of `dino-jax visualize`: the pictures and films of a model."""

import argparse
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dino_jax.commands.command_line import run_command
from dino_jax.commands.compilation_cache import say_programs
from dino_jax.evaluation.sharing import counted
from dino_jax.visualize.attention_film import overlay_frames
from dino_jax.visualize.choices import IMAGES_PER_SECOND, SIZE, USUAL_SIZE
from dino_jax.visualize.film import Film, is_film, write_film
from dino_jax.visualize.inputs import Named, bound_size, fit_to_patches, read_images, stream_images
from dino_jax.visualize.sheets import (
    attention_sheet,
    neighbours_sheet,
    objects_sheet,
    similarity_sheet,
)
from dino_jax.weights.limits import most_patches
from dino_jax.weights.model import Model, decoded_by, load
from dino_jax.workdir.paths import folder_of_results

Draw = Callable[[Model, Sequence[Named], Any], dict[str, np.ndarray]]


def draw_attention(model: Model, images: Sequence[Named], arguments: Any) -> dict[str, np.ndarray]:
    return {
        f"{number:03d}_{image.name}_attention": attention_sheet(model, pixels, arguments.mass)
        for number, (image, pixels) in enumerate(
            zip(images, fit(model, images, arguments), strict=True)
        )
    }


def draw_objects(model: Model, images: Sequence[Named], arguments: Any) -> dict[str, np.ndarray]:
    return {"pca": objects_sheet(model, fit(model, images, arguments))}


def draw_similar(model: Model, images: Sequence[Named], arguments: Any) -> dict[str, np.ndarray]:
    point = parse_point(arguments.point)
    return {"similar_patches": similarity_sheet(model, fit(model, images, arguments), point)}


def draw_neighbours(model: Model, images: Sequence[Named], arguments: Any) -> dict[str, np.ndarray]:
    if not arguments.gallery:
        raise ValueError("neighbours needs --gallery=FOLDER, the images to search in")
    sheet = neighbours_sheet(model, images, arguments.gallery, arguments.k, arguments.as_seen)
    return {"neighbours": sheet}


def fit(model: Model, images: Sequence[Named], arguments: Any) -> list[np.ndarray]:
    """The images at the size that the network sees, in whole patches."""
    patch_size = model.network.backbone.patch_size
    sizes = [seen_size(model, arguments, image.pixels, image.name) for image in images]
    return [
        fit_to_patches(image.pixels, size, patch_size)
        for image, size in zip(images, sizes, strict=True)
    ]


def seen_size(model: Model, arguments: Any, image: np.ndarray, name: str) -> int:
    """Pixels of the short side that the network sees; 0: unchanged.

    Less than --size, which is said, for an image with more patches than `most_patches`.
    """
    usual = round(model.image_size * SIZE / USUAL_SIZE)
    wanted = usual if arguments.size is None else arguments.size
    shape, most = (image.shape[0], image.shape[1]), most_patches(model)
    size = bound_size(shape, wanted, model.network.backbone.patch_size, most)
    if size != wanted:
        print(
            f"{name}: {shape[0]} x {shape[1]} pixels with --size={wanted} are more than {most:,} "
            f"patches; drawn with --size={size}",
            file=sys.stderr,
        )
    return size


DRAW: dict[str, Draw] = {
    "attention": draw_attention,
    "pca": draw_objects,
    "similar_patches": draw_similar,
    "neighbours": draw_neighbours,
}


def film_attention(model: Model, path: str, out: Path, arguments: Any) -> str:
    """Writes a film with the attention over it; returns a line about it."""
    with Film(path) as film:
        rate = Fraction(arguments.fps).limit_denominator(1001) if arguments.fps else film.rate
        if not rate:
            raise ValueError(f"{path} does not state its frame rate; pass --fps")
        target = out / f"{Path(path).stem}_attention.mp4"
        frames = overlay_film(model, counted(film, "film", film.count, "frames"), arguments, path)
        count = write_film(target, frames, rate)
    return f"{target}: {count} frames, {float(rate):.4g} per second"


def overlay_film(
    model: Model, frames: Iterable[np.ndarray], arguments: Any, name: str
) -> Iterator[np.ndarray]:
    """The attention over frames, at the size of the first one."""
    rest = iter(frames)
    for first in rest:  # one turn
        size = seen_size(model, arguments, first, name)
        yield from overlay_frames(model, itertools.chain([first], rest), size)


def film_images(model: Model, paths: Sequence[str], out: Path, arguments: Any) -> str:
    """The same with images as frames; files that are not images are named on stderr."""
    rate, lost = Fraction(arguments.fps or IMAGES_PER_SECOND).limit_denominator(1001), []
    frames = (image.pixels for image in stream_images(paths, model.decoding, lost))
    target = out / f"{Path(paths[0]).stem}_attention.mp4"
    count = write_film(target, overlay_film(model, frames, arguments, paths[0]), rate)
    say_lost(lost)
    return f"{target}: {count} frames, {float(rate):.4g} per second"


def parse_point(text: str) -> tuple[int, int]:
    """ "120,80" -> (120, 80).

    Raises:
      ValueError: if it is anything else.
    """
    try:
        x, y = (int(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(
            f"similar_patches needs --point=X,Y in pixels, such as --point=120,80; got {text!r}"
        ) from error
    return x, y


def visualize(arguments: argparse.Namespace) -> str:
    """Writes all pictures and films; each has its line on the console.

    Raises:
      ValueError: if an option does not fit the model or the images.
      OSError: if files can't be read or written.
    """
    films = [path for path in arguments.images if is_film(path)]
    check_films(arguments, films)
    say_programs()
    model = decoded_by(load(arguments.model, arguments.step), arguments)
    print(f"images: {model.decoding.describe()}", file=sys.stderr)
    out = Path(arguments.out)
    images = [path for path in arguments.images if path not in films]
    with folder_of_results(out):
        for path in films:
            print(film_attention(model, path, out, arguments))
        if arguments.film:
            print(film_images(model, images, out, arguments))
        elif images:
            draw(model, images, out, arguments)
    return ""


def draw(model: Model, paths: Sequence[str], out: Path, arguments: Any) -> None:
    """Draws the pictures of images and writes them."""
    images, lost = read_images(paths, model.decoding)
    say_lost(lost)
    for name, pixels in DRAW[arguments.what](model, images, arguments).items():
        Image.fromarray(pixels).save(out / f"{name}.png")
        print(f"{out / name}.png: {pixels.shape[1]} x {pixels.shape[0]} pixels")


def say_lost(lost: Sequence[str]) -> None:
    """Names the files that are not images."""
    for line in lost:
        print(f"unreadable image, left out: {line}", file=sys.stderr)


def check_films(arguments: argparse.Namespace, films: Sequence[str]) -> None:
    """Checks the options about films.

    Raises:
      ValueError: names the option.
    """
    if (films or arguments.film) and arguments.what != "attention":
        raise ValueError(f"films are for attention, not for {arguments.what}")
    if films and arguments.film:
        raise ValueError(f"--film makes a film of images; {films[0]} is one already")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    return run_command(lambda: visualize(arguments))
