"""The work of `dino-jax search duplicates`: groups of like photographs; nothing is deleted."""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dino_jax.commands.command_line import run_command
from dino_jax.data.decode import UnreadableImageError
from dino_jax.search.conditions import parse_condition
from dino_jax.search.hits import captioned, lines_of, read_or_gray
from dino_jax.search.index import Index, open_index
from dino_jax.search.pairs import Star, Survey, histogram, stars, survey
from dino_jax.search.photos import Photos
from dino_jax.search.query import save_picture
from dino_jax.search.same_picture import Look, is_same, look_at
from dino_jax.search.segment import Row
from dino_jax.visualize.pictures import tile_rows
from dino_jax.workdir.paths import folder_of_results, written_whole

SAME_BYTES, SAME_PICTURE, SIMILAR = "same bytes", "same picture", "similar"
KINDS = (SAME_BYTES, SAME_PICTURE, SIMILAR)
COLUMNS = ("group", "role", "name", "cosine", "kind", "width", "height", "bytes")
PER_GROUP = 6  # pictures of a group on the contact sheet
BAR = 40  # characters of the longest bar


class Photo(NamedTuple):
    """A photograph in a pair: its row, and what it looks like; None if it can't be read."""

    row: Row
    look: Look | None


class Group(NamedTuple):
    """A star of rows and the kind of every member."""

    star: Star
    kinds: list[str]


def show_histogram(index: Index, numbers: np.ndarray, found: Survey) -> str:
    """The largest cosine of each photograph with another one, and an example of each step."""
    steps = histogram(found.nearest)
    most = max(count for *_, count in steps) or 1
    lines = ["the most similar other photo of each photo, by cosine:"]
    for low, high, count in steps:
        inside = np.flatnonzero((found.nearest >= low) & ((found.nearest < high) | (high == 1)))
        example = ""
        if len(inside):
            pair = (int(inside[0]), int(found.nearest_at[inside[0]]))
            example = "   " + "  ~  ".join(index.row(int(numbers[one])).name for one in pair)
        bar = "#" * -(-BAR * count // most)
        lines.append(f"{low:6.3f} to {high:5.3f} {count:8,} {bar:{BAR}}{example}".rstrip())
    lines.append(
        "pass --threshold=COSINE, one that parts the same from the merely similar here: it differs "
        "from model to model"
    )
    return "\n".join(lines)


def find_groups(
    index: Index, numbers: np.ndarray, found: Survey, photos: Photos
) -> tuple[list[Group], dict[int, Photo]]:
    """Star groups, with what was seen of their photographs.

    The largest picture is kept; of equally large ones the larger file, then the smaller row.

    Args:
      index: an open index.
      numbers: rows of the survey.
      found: the survey, whose pairs are grouped.
      photos: their files.
    """
    involved = np.unique(found.pairs).tolist()
    seen = {one: _look(index.row(int(numbers[one])), photos) for one in involved}

    def worth(one: int) -> tuple[int, int, int]:
        row, look = seen[one]
        return (-look.width * look.height if look else 0, -row.size, one)

    groups = [
        Group(star, [_kind(seen[star.kept], seen[other]) for other, _ in star.others])
        for star in stars(found.pairs, found.cosines, sorted(involved, key=worth))
    ]
    return sorted(groups, key=_most_certain), seen


def _most_certain(group: Group) -> tuple[int, int]:
    return min(map(KINDS.index, group.kinds)), group.star.kept


def _look(row: Row, photos: Photos) -> Photo:
    try:
        return Photo(row, look_at(photos.read(row.name)))
    except UnreadableImageError:
        return Photo(row, None)


def _kind(kept: Photo, other: Photo) -> str:
    if kept.row.sha256 and kept.row.sha256 == other.row.sha256:
        return SAME_BYTES
    same = kept.look is not None and other.look is not None and is_same(kept.look, other.look)
    return SAME_PICTURE if same else SIMILAR


def write_csv(path: Path, groups: Sequence[Group], seen: dict[int, Photo]) -> None:
    """One line per photograph of a group, the kept one first."""
    with written_whole(path) as place, Path(place).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number, (star, kinds) in enumerate(groups, start=1):
            writer.writerow([number, "kept", *_facts(seen[star.kept], "", "")])
            for (other, cosine), kind in zip(star.others, kinds, strict=True):
                writer.writerow([number, "like it", *_facts(seen[other], f"{cosine:.6f}", kind)])


def _facts(photo: Photo, cosine: str, kind: str) -> list[object]:
    width, height = (photo.look.width, photo.look.height) if photo.look else ("", "")
    return [photo.row.name, cosine, kind, width, height, photo.row.size or ""]


def draw_groups(groups: Sequence[Group], seen: dict[int, Photo], photos: Photos) -> np.ndarray:
    """A line per group: the kept photograph, then those like it."""
    lines = []
    for star, kinds in groups:
        kept = seen[star.kept].row.name
        pictures = [captioned(read_or_gray(photos, kept), f"kept {kept}")]
        shown = list(zip(star.others, kinds, strict=True))[: PER_GROUP - 1]
        for (other, cosine), kind in shown:
            name = seen[other].row.name
            text = f"{cosine:.3f} {kind}: {name}"
            pictures.append(captioned(read_or_gray(photos, name), text))
        lines += lines_of(pictures, PER_GROUP)
    return tile_rows(lines)


def duplicates(arguments: argparse.Namespace) -> str:
    """Finds and writes; returns what to print."""
    index = open_index(arguments.index, checked=not arguments.unchecked)
    numbers = np.flatnonzero(index.allowed([parse_condition(text) for text in arguments.where]))
    if len(numbers) < 2:
        return f"{index.folder}: {len(numbers)} photos, so there are no pairs"
    vectors = index.vectors(numbers)
    if arguments.threshold is None:
        return show_histogram(index, numbers, survey(vectors, 2.0))
    if not arguments.out:
        raise ValueError("--threshold needs --out=DIR, for duplicates.csv and the contact sheets")
    found = survey(vectors, arguments.threshold)
    photos = Photos(arguments.photos or index.manifest.photos)
    groups, seen = find_groups(index, numbers, found, photos)
    lost = sum(photo.look is None for photo in seen.values())
    if lost:
        print(
            f"{lost:,} photos of the groups can't be read (--photos=FOLDER says where they are): "
            "whether they show the same picture is not known, so they count as similar",
            file=sys.stderr,
        )
    out = Path(arguments.out).expanduser()
    with folder_of_results(out):
        write_csv(out / "duplicates.csv", groups, seen)
        for kind in KINDS:
            of_kind = [group for group in groups if _strongest(group) == kind]
            if of_kind:
                name = f"{kind.replace(' ', '_')}.png"
                sheet = draw_groups(of_kind[: arguments.sheet_groups], seen, photos)
                with written_whole(out / name) as path:
                    save_picture(sheet, path, name)
    return _describe(out, groups)


def _strongest(group: Group) -> str:
    return KINDS[min(map(KINDS.index, group.kinds))]


def _describe(out: Path, groups: Sequence[Group]) -> str:
    kinds = [kind for group in groups for kind in group.kinds]
    counted = ", ".join(f"{kinds.count(kind):,} {kind}" for kind in KINDS)
    smallest = min((cosine for g in groups for _, cosine in g.star.others), default=None)
    least = f"; smallest cosine to a kept photo {smallest:.4f}" if smallest is not None else ""
    return (
        f"{out}: {len(groups):,} groups with {len(kinds):,} photos besides the kept ones "
        f"({counted}){least}; nothing was deleted"
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    return run_command(lambda: duplicates(arguments))
