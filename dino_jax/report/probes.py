"""Probe images over the steps, their nearest neighbors, and the crops."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from etils import epath
from PIL import Image

from dino_jax.foreign.json_text import read_json
from dino_jax.report.history import Run, is_number
from dino_jax.report.markup import Markup, element, join
from dino_jax.report.pictures import LONGEST, draw_picture, open_picture, resize, stack
from dino_jax.report.scales import format_count
from dino_jax.workdir.layout import (
    CROPS_PNG,
    PROBES_JSON,
    drawn_steps,
    probe_image,
    step_folder,
)

TILE, NEIGHBOUR_TILE, HEAD_TILE = 112, 84, 56  # pixels
MOST_PROBES, MOST_NEIGHBOURS = 8, 50
FILMS = {  # titles by the end of a picture's name
    "attention": "attention",
    "pca": "PCA",
    "seen": "hidden",
    "filled": "filled in",
}
MAX_JSON_BYTES = 1 << 24
MOST_FRAMES = 16  # evaluations on the slider, over all runs together
CROPS_WIDTH = 1400  # pixels at most


@dataclass(frozen=True)
class Frame:
    """The pictures of one evaluation: step, folder and content of probes.json."""

    step: int
    folder: epath.Path
    probes: list[dict[str, Any]]
    heads: int


def draw_probes(runs: Sequence[Run]) -> Markup | None:
    """Attention and patch PCA of the probe images at every evaluation, with a slider."""
    frames = [(run, read_frames(run)) for run in runs]
    most = max(2, MOST_FRAMES // len(runs))
    shown = [(run, thin_frames(found, most)) for run, found in frames if found]
    if not shown:
        return None
    return element(
        "section",
        element("h2", "Probe images"),
        element(
            "p",
            "The same images at every evaluation, seen by the network that is evaluated. "
            "Attention: where the cls "
            "token of the last block looks, mean of the heads, brightest at its maximum. PCA: "
            "first three principal components of the patch features of all probes as red, green "
            "and blue; equal colors mean similar patches. Of a masked autoencoder: the image with "
            "most patches hidden, and with these filled in; where the targets are normalized, a "
            "patch has the brightness and the contrast of the true one.",
            class_="note",
        ),
        *(_film(run, found, named=len(runs) > 1) for run, found in shown),
    )


def draw_neighbours(runs: Sequence[Run]) -> Markup | None:
    """The nearest training images of every probe at the newest evaluation."""
    newest = [(run, found[-1]) for run in runs if (found := read_frames(run))]
    if not newest:
        return None
    return element(
        "section",
        element("h2", "Nearest neighbors"),
        element(
            "p",
            "Each probe, framed, and the training images whose cls features have the largest "
            "cosine similarity with its own.",
            class_="note",
        ),
        *(_neighbours(run, frame, named=len(runs) > 1) for run, frame in newest),
    )


def draw_crops(runs: Sequence[Run]) -> Markup | None:
    """Some images with the crops that the network sees; equal sheets are shown once."""
    sheets: dict[str, tuple[list[str], Image.Image]] = {}
    for run in runs:
        sheet = open_picture(run.folder / CROPS_PNG)
        if sheet is not None:
            digest = hashlib.sha256(sheet.tobytes()).hexdigest()
            sheets.setdefault(digest, ([], sheet))[0].append(run.name)
    if not sheets:
        return None
    named = len(runs) > 1
    return element(
        "section",
        element("h2", "Crops as the network sees them"),
        *(_sheet(names if named else [], sheet) for names, sheet in sheets.values()),
    )


def read_frames(run: Run) -> list[Frame]:
    """The evaluations of a run whose pictures are complete, ascending steps.

    Those after the newest metrics were made by an interrupted run that has not come so far again.
    """
    frames = []
    for step in drawn_steps(run.folder):
        folder = step_folder(run.folder, step)
        described = _read_json(folder / PROBES_JSON)
        probes, heads = _dicts(described.get("probes"), MOST_PROBES), described.get("heads")
        if step <= run.last_step and probes:
            frames.append(Frame(step, folder, probes, heads if isinstance(heads, int) else 0))
    return frames


def thin_frames(frames: Sequence[Frame], most: int) -> list[Frame]:
    """At most `most` of them, evenly spaced, with the first and the last."""
    if len(frames) <= most:
        return list(frames)
    return [frames[place * (len(frames) - 1) // (most - 1)] for place in range(most)]


def _film(run: Run, frames: Sequence[Frame], named: bool) -> Markup:
    count, last = len(frames), frames[-1]
    title = f"{run.name}, step" if named else "Step"
    player = element(
        "div",
        element("span", title),
        element("output", format_count(last.step)),
        element(
            "input",
            type="range",
            min=0,
            max=count - 1,
            value=count - 1,
            data_steps=" ".join(format_count(frame.step) for frame in frames),
            aria_label="evaluation that is shown",
        ),
        class_="player",
    )
    probes = [_probe(run, frames, number, probe) for number, probe in enumerate(last.probes)]
    heads = _heads(last) if last.heads > 1 else None
    style = f"--frames:{count};--frame:{count - 1}"
    return element(
        "div", player, element("ul", *probes, class_="probes"), heads, class_="film", style=style
    )


def _probe(run: Run, frames: Sequence[Frame], number: int, probe: dict[str, Any]) -> Markup:
    name = _caption(probe)
    original = open_picture(probe_image(run.folder, number))
    tiles = [("image", draw_picture(resize(original, TILE, TILE), name))] if original else []
    for kind, title in FILMS.items():
        paths = [frame.folder / f"{number:02d}_{kind}.png" for frame in frames]
        pictures = [picture for path in paths if (picture := open_picture(path))]
        if len(pictures) == len(paths):
            film = stack([resize(picture, TILE, TILE) for picture in pictures])
            tiles.append((title, draw_picture(film, f"{title} of {name}")))
    figures = [
        element("figure", element("div", picture, class_="tile"), element("figcaption", title))
        for title, picture in tiles
    ]
    return element("li", *figures)


def _heads(frame: Frame) -> Markup:
    rows = []
    for number, probe in enumerate(frame.probes):
        path = frame.folder / f"{number:02d}_heads.png"
        strip = open_picture(path)
        if strip is not None:
            width = round(strip.width * HEAD_TILE / strip.height)
            alt = f"attention of each head, {_caption(probe)}"
            rows.append(draw_picture(resize(strip, width, HEAD_TILE), alt))
    summary = f"Attention of each of the {frame.heads} heads at step {format_count(frame.step)}"
    return element(
        "details", element("summary", summary), element("div", *rows, class_="heads scroll")
    )


def _neighbours(run: Run, frame: Frame, named: bool) -> Markup:
    rows = []
    for number, probe in enumerate(frame.probes):
        original = open_picture(probe_image(run.folder, number))
        path = frame.folder / f"{number:02d}_neighbours.png"
        strip = open_picture(path)
        if original is None or strip is None:
            continue
        query = draw_picture(resize(original, NEIGHBOUR_TILE, NEIGHBOUR_TILE), _caption(probe))
        figures = [
            element("figure", query, element("figcaption", element("b", probe.get("label", ""))))
        ]
        most = min(MOST_NEIGHBOURS, strip.width // strip.height)  # squares in the strip
        neighbours = _dicts(probe.get("neighbours"), most)
        for one, tile in zip(neighbours, _cut(strip, len(neighbours)), strict=True):
            picture = draw_picture(tile, f"neighbour {_caption(one)}")
            label = element("b", one["label"], " ") if "label" in one else None
            cosine = one.get("cosine")
            shown = f"{cosine:.3f}" if is_number(cosine) else ""
            text = element("figcaption", label, shown)
            figures.append(element("figure", picture, text))
        rows.append(element("li", *figures))
    title = f"{run.name}, step" if named else "Step"
    return join(
        element("h3", f"{title} {format_count(frame.step)}", class_="of_run"),
        element("ul", *rows, class_="neighbours"),
    )


def _cut(strip: Image.Image, count: int) -> list[Image.Image]:
    """The square tiles of a strip, whatever the gap between them."""
    side = strip.height
    gap = (strip.width - count * side) // max(count - 1, 1)
    boxes = [(i * (side + gap), 0, i * (side + gap) + side, side) for i in range(count)]
    return [resize(strip.crop(box), NEIGHBOUR_TILE, NEIGHBOUR_TILE) for box in boxes]


def _sheet(names: Sequence[str], sheet: Image.Image) -> Markup:
    if sheet.width > CROPS_WIDTH or sheet.height > LONGEST:
        width = min(sheet.width, CROPS_WIDTH)
        sheet = resize(sheet, width, round(sheet.height * width / sheet.width))
    picture = draw_picture(sheet, "training images with the boxes of their crops, and the crops")
    return join(
        element("h3", ", ".join(names), class_="of_run") if names else None,
        element("div", picture, class_="scroll sheet"),
    )


def _read_json(path: epath.Path) -> dict[str, Any]:
    """{} for a file that is missing or torn."""
    try:
        described = read_json(path, MAX_JSON_BYTES)
    except (OSError, ValueError):
        return {}
    return described if isinstance(described, dict) else {}


def _dicts(found: Any, most: int) -> list[dict[str, Any]]:
    """The first entries of a list that are objects."""
    return [one for one in found[:most] if isinstance(one, dict)] if isinstance(found, list) else []


def _caption(described: dict[str, Any]) -> str:
    name, label = str(described.get("name", "")), described.get("label")
    return f"{name} ({label})" if label else name
