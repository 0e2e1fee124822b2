"""The work of `dino-jax search evaluate`: measures of an index by a label column."""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dino_jax.commands.command_line import run_command
from dino_jax.search.conditions import Condition, parse_condition
from dino_jax.search.hits import captioned, find_hits, lines_of, read_or_gray
from dino_jax.search.index import Index, open_index
from dino_jax.search.measures import Scores, bootstrap, measure
from dino_jax.search.mixture import USUAL_WEIGHT, at_weight
from dino_jax.search.photos import Photos
from dino_jax.search.query import PICTURES, require_weight, save_picture
from dino_jax.search.sweep import lines_of_sweep, sweep
from dino_jax.visualize.pictures import tile_rows
from dino_jax.workdir.paths import write_atomically, written_whole

EVERY_K = (1, 10, 100, 1000)  # of Stanford Online Products: every photo against all others
GALLERY_K = (1, 10, 20, 30)  # of In-Shop: queries against a gallery
WORST, HITS = 12, 5  # classes on the contact sheet, and hits of a query


class Labelled(NamedTuple):
    """The rows of an evaluation.

    Attributes:
      queries, gallery: [Q] and [N] numbers of rows.
      names: label of every class.
      classes: class by row; rows without a label are in neither.
      without: rows that were left out for want of a label.
    """

    queries: np.ndarray
    gallery: np.ndarray
    names: list[str]
    classes: dict[int, int]
    without: int


def choose(index: Index, arguments: argparse.Namespace, only: set[str] | None = None) -> Labelled:
    """The rows that the command line names.

    Args:
      index: an open index.
      arguments: with label, where, queries and gallery.
      only: names of photographs, None for all.

    Raises:
      ValueError: if there are no queries or nothing to search, or a column is unknown.
    """
    labels = index.column(arguments.label)
    allowed = index.allowed(_parse(arguments.where)).astype(bool)
    if only is not None:
        allowed &= np.array([name in only for name in index.column("name")], bool)
    labelled = np.array([value is not None and value != "" for value in labels], bool)
    names = sorted({str(labels[row]) for row in np.flatnonzero(allowed & labelled)})
    number = {name: place for place, name in enumerate(names)}
    rows = np.flatnonzero(allowed & labelled)
    classes = {int(row): number[str(labels[row])] for row in rows}
    parts = [
        np.flatnonzero(allowed & labelled & index.allowed(_parse(texts)).astype(bool))
        for texts in (arguments.queries, arguments.gallery)
    ]
    if not all(map(len, parts)):
        raise ValueError(
            f"{len(parts[0])} queries and {len(parts[1])} photos to search: the filters, and a "
            f"value in --label={arguments.label}, leave nothing"
        )
    return Labelled(parts[0], parts[1], names, classes, int((allowed & ~labelled).sum()))


def score(
    index: Index, rows: Labelled, first: tuple[int, ...], weight: float = USUAL_WEIGHT
) -> Scores:
    """Measures all queries, with a weight of the first of two models."""
    place = {int(row): i for i, row in enumerate(rows.gallery)}
    own = np.array([place.get(int(row), -1) for row in rows.queries])
    of = [np.array([rows.classes[int(row)] for row in part]) for part in rows[:2]]
    dims = index.manifest.dims
    queries, gallery = (at_weight(index.vectors(part), dims, weight) for part in rows[:2])
    return measure(queries, of[0], gallery, of[1], own, first)


def evaluate(arguments: argparse.Namespace) -> str:
    """Measures, compares and writes; returns what to print."""
    if arguments.out and not arguments.out.endswith((".json", *PICTURES)):
        raise ValueError(f"--out={arguments.out} must end with .json, {', '.join(PICTURES)}")
    index = open_index(arguments.index, checked=not arguments.unchecked)
    require_weight(index.manifest, arguments.weight)
    weight = USUAL_WEIGHT if arguments.weight is None else arguments.weight
    other, only = None, None
    if arguments.against:
        other = open_index(arguments.against, checked=not arguments.unchecked)
        only = {row.name for _, row in index.rows()} & {row.name for _, row in other.rows()}
    first = GALLERY_K if arguments.queries or arguments.gallery else EVERY_K
    rows = choose(index, arguments, only)
    scores = score(index, rows, first, weight)
    result = _describe(scores, rows)
    weighed = f", weight {weight:g}" if index.manifest.others else ""
    lines = [f"{index.folder}, label {arguments.label}{weighed}", *_lines(result)]
    if index.manifest.others and arguments.weight is None:
        found = sweep(lambda weight: score(index, rows, first, weight), arguments.resamples)
        one, two = (origin.model for origin in index.manifest.origins)
        result["weights"] = {"models": [one, two], **found}
        lines += lines_of_sweep(found, (one, two))
    if other is not None:
        theirs = _in_order_of(index, rows, other)
        against = score(other, theirs, first)
        gains = bootstrap(scores, against, arguments.resamples)
        result["against"] = {"index": str(other.folder), "gains": gains}
        lines.append(f"{other.folder} minus {index.folder}, with intervals of 95 %:")
        lines += [
            f"  {name:12} {d:+.4f}  [{a:+.4f}, {b:+.4f}]" for name, (d, a, b) in gains.items()
        ]
    if arguments.out.endswith(".json"):
        write_atomically(arguments.out, json.dumps(result, indent=1) + "\n")
    elif arguments.out:
        photos = Photos(arguments.photos or index.manifest.photos)
        with written_whole(Path(arguments.out).expanduser()) as path:
            save_picture(draw_worst(index, rows, scores, photos), path, arguments.out)
    return "\n".join(lines)


def _parse(texts: list[str]) -> list[Condition]:
    return [parse_condition(text) for text in texts]


def _in_order_of(index: Index, rows: Labelled, other: Index) -> Labelled:
    """The same photographs, with the labels of the first index, by the numbers of another."""
    number = {row: other.find(index.row(row).name) for row in rows.classes}
    queries, gallery = (np.array([number[int(row)] for row in part]) for part in rows[:2])
    classes = {number[row]: one for row, one in rows.classes.items()}
    return Labelled(queries, gallery, rows.names, classes, rows.without)


def _describe(scores: Scores, rows: Labelled) -> dict[str, Any]:
    return {
        "queries": len(rows.queries) - scores.lone,
        "lone": scores.lone,
        "gallery": len(rows.gallery),
        "classes": len(rows.names),
        "without_label": rows.without,
        "means": scores.means(),
        "means_over_classes": scores.means(by_class=True),
    }


def _lines(result: dict[str, Any]) -> list[str]:
    counts = (
        f"{result['queries']:,} queries, {result['gallery']:,} photos to search, "
        f"{result['classes']:,} classes; left out: {result['lone']:,} lone queries, "
        f"{result['without_label']:,} photos without a label"
    )
    head = f"  {'measure':12} {'mean':>7} {'over classes':>13}"
    over = result["means_over_classes"]
    rows = [f"  {name:12} {x:7.4f} {over[name]:13.4f}" for name, x in result["means"].items()]
    return [counts, head, *rows]


def draw_worst(index: Index, rows: Labelled, scores: Scores, photos: Photos) -> np.ndarray:
    """The classes with the smallest mAP@R: a line each, the worst query and what it found."""
    values = scores.values["map@r"]
    mask = np.zeros(index.manifest.rows, np.uint8)
    mask[rows.gallery] = 1
    counted = ~np.isnan(values)
    means = {
        one: values[counted & (scores.classes == one)].mean()
        for one in np.unique(scores.classes[counted]).tolist()
    }
    lines = []
    for one in sorted(means, key=lambda one: (means[one], one))[:WORST]:
        of_class = np.flatnonzero(counted & (scores.classes == one))
        row = int(rows.queries[of_class[np.argmin(values[of_class])]])
        others = mask.copy()
        others[row] = 0
        found = find_hits(index, index.vector(row), HITS, others).hits
        name = index.row(row).name
        title = f"{rows.names[one]}: mAP@R {means[one]:.2f}"
        pictures = [captioned(read_or_gray(photos, name), title)]
        for hit in found:
            sign = "+" if rows.classes[hit.row] == one else "-"
            pictures.append(
                captioned(read_or_gray(photos, hit.name), f"{sign} {hit.score:.3f} {hit.name}")
            )
        lines += lines_of(pictures, HITS + 1)
    return tile_rows(lines)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    return run_command(lambda: evaluate(arguments))
