"""The options of `dino-jax search`, subcommand by subcommand, without what the work imports."""

import argparse
import os
from collections.abc import Callable
from typing import NamedTuple

from dino_jax.commands.arguments import BATCH, COUNT, LAYERS, SIDE, STEP, THREADS, filled, whole
from dino_jax.commands.arguments import real as number
from dino_jax.config.range import MAX_PIXELS
from dino_jax.embedding.choices import REDUCTIONS

TOKENS = ("cls", "mean", "both")  # those of `dino-jax embed` that give one vector
VIEWS = ("mirrored", "turned")  # that a query may add
COSINE = number(above=0, at_most=1)
SHARE = number(at_least=0, at_most=1)
PORT = whole(1, 65535)


class Subcommand(NamedTuple):
    """One of the things that `dino-jax search` does.

    Attributes:
      module: has `run(arguments)`, which returns the exit code.
      help: first line of its help, and what follows.
      add: adds its options.
    """

    module: str
    help: str
    add: Callable[[argparse.ArgumentParser], None]


def _add_index(parser: argparse.ArgumentParser, unchecked: bool = True) -> None:
    parser.add_argument("index", type=filled, help="folder of the index")
    if unchecked:
        parser.add_argument(
            "--unchecked",
            action="store_true",
            help="do not compare the files with their checksums (a second per gigabyte)",
        )


def _add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", default="", help="model of the index; default: from where it was built")
    add("--step", type=STEP, help="checkpoint of a workdir; default: that of the index")
    add("--other", default="", help="its second model, likewise")
    add("--max-pixels", type=COUNT, default=MAX_PIXELS, help="larger images count as unreadable")


def _add_machine(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--batch-size", type=BATCH, default=64, help="images per batch")
    add("--threads", type=THREADS, default=min(16, os.cpu_count() or 1), help="that decode")


def _add_table(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--metadata",
        default="",
        help="CSV or Parquet with a row per photo; replaces an earlier one",
    )
    add(
        "--key",
        default="name",
        help="its column with the names of the photos, as the index has them",
    )


def _add_photos(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--photos", default="", help="folder of the photos, if it has moved")


def _add_weight(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weight", type=SHARE, help="of the first of two models, 0 to 1; default: 0.5"
    )


def _add_where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--where", nargs="+", default=[], help="filters: 'brand=acme' 'price<100' (all must hold)"
    )


def add_build(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_index(parser, unchecked=False)
    add("model", nargs="?", default="", help="workdir, folder of dino-jax import, file of weights")
    add("photos", nargs="?", default="", help="folder of photos; sub-folders are searched")
    add("--other", default="", help="second model, such as an imported CLIP: both are stored")
    add("--other-from", default="", help="folder of dino-jax embed by it, beside --from")
    add(
        "--from",
        dest="embedded",
        default="",
        help="folder of dino-jax embed, or another index for --adapter",
    )
    add("--step", type=STEP, help="checkpoint of a workdir; default: the newest")
    add("--tokens", choices=TOKENS, default="cls", help="cls, mean (of the patches) or both")
    add("--layers", type=LAYERS, default=1, help="number of last blocks whose features are used")
    add("--reduce", choices=REDUCTIONS, default="none", help="none, pca or random (projection)")
    add("--dim", type=COUNT, default=512, help="numbers per photo after --reduce")
    add("--sample", type=COUNT, default=20_000, help="photos from which PCA is computed")
    add("--image-size", type=SIDE, help="pixels; default: as the model was evaluated")
    add("--max-pixels", type=COUNT, default=MAX_PIXELS, help="larger images count as unreadable")
    add("--adapter", default="", help="folder of dino-jax tune, applied to the vectors")
    _add_table(parser)
    _add_machine(parser)


def add_update(parser: argparse.ArgumentParser) -> None:
    _add_index(parser, unchecked=False)
    parser.add_argument(
        "photos", nargs="?", default="", help="folder of the photos; default: that of the index"
    )
    _add_table(parser)
    _add_model(parser)
    _add_machine(parser)


def add_remove(parser: argparse.ArgumentParser) -> None:
    _add_index(parser, unchecked=False)
    parser.add_argument(
        "names", type=filled, nargs="*", default=[], help="names of photos, as the index has them"
    )
    _add_where(parser)


def add_compact(parser: argparse.ArgumentParser) -> None:
    _add_index(parser, unchecked=False)
    parser.add_argument("--always", action="store_true", help="even if little is removed")


def _add_approximate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--approximate",
        action="store_true",
        help="use the lists of `search approximate`: faster above some millions, not exact",
    )


def _add_rerank(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rerank",
        type=COUNT,
        help="nearest photos that are compared patch by patch, such as 100; default: none",
    )


def add_approximate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_index(parser, unchecked=False)
    add("--lists", type=COUNT, help="number of lists; default: about 4 sqrt(n), a power of two")
    add("--recall", type=COSINE, default=0.99, help="share of the 10 nearest that must be found")


def add_query(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_index(parser)
    add(
        "images",
        type=filled,
        nargs="*",
        default=[],
        help="photos of the one thing that is looked for",
    )
    add("--row", default="", help="name of a photo of the index, instead of files")
    add("--text", nargs="+", default=[], help="in words, by CLIP or SigLIP; of several the mean")
    add("--text-weight", type=SHARE, default=0.5, help="of --text beside a photo, 0 to 1")
    _add_weight(parser)
    add("--box", default="", help="X0,Y0,X1,Y1: the part of the (one) photo, in its pixels")
    add(
        "--views",
        nargs="+",
        choices=VIEWS,
        default=[],
        help="also look for the photos mirrored, or turned by quarters: the mean of all views",
    )
    add("-k", "--k", type=whole(1, 100_000), default=10, help="number of answers")
    _add_where(parser)
    add("--group", default="", help="column: only the best photo of each of its values")
    _add_approximate(parser)
    _add_rerank(parser)
    add("--out", default="", help="file .jsonl, or contact sheet .png or .jpg; default: a table")
    _add_photos(parser)
    _add_model(parser)


def add_duplicates(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_index(parser)
    add("--threshold", type=COSINE, help="smallest cosine; without it the histogram is shown")
    _add_where(parser)
    add("--out", default="", help="folder for duplicates.csv and contact sheets")
    add("--sheet-groups", type=COUNT, default=40, help="groups on the contact sheet")
    _add_photos(parser)


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_index(parser)
    add("--label", type=filled, required=True, help="column: photos of one value belong together")
    _add_where(parser)
    add("--queries", nargs="+", default=[], help="filters of the queries (In-Shop protocol)")
    add("--gallery", nargs="+", default=[], help="filters of the photos that are searched")
    add("--against", default="", help="second index of the same photos, compared with this one")
    _add_weight(parser)
    add(
        "--resamples",
        type=COUNT,
        default=10_000,
        help="of the bootstrap of --against, and of weights",
    )
    add("--out", default="", help="JSON file; or contact sheet .png of the worst classes")
    _add_photos(parser)


def add_serve(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_index(parser)
    add("--port", type=PORT, default=8000, help="of the page")
    add("--host", default="127.0.0.1", help="address; other than this machine's needs --token")
    _add_approximate(parser)
    _add_rerank(parser)
    add("--token", default="", help="word that the link to the page holds; 'new' draws one")
    _add_photos(parser)
    _add_model(parser)


SUBCOMMANDS = {
    "build": Subcommand(
        "dino_jax.search.build",
        "Makes an index of a folder of photos, or of what dino-jax embed has made.",
        add_build,
    ),
    "update": Subcommand(
        "dino_jax.search.update",
        "Takes over new, changed, renamed and vanished photos, or another table of metadata.",
        add_update,
    ),
    "remove": Subcommand("dino_jax.search.remove", "Takes photos out of an index.", add_remove),
    "compact": Subcommand(
        "dino_jax.search.compact", "Writes an index again without removed rows.", add_compact
    ),
    "approximate": Subcommand(
        "dino_jax.search.approximate",
        "Makes lists of faiss for --approximate, and measures how much they lose.",
        add_approximate,
    ),
    "query": Subcommand(
        "dino_jax.search.query", "Finds the photos most like one or several.", add_query
    ),
    "duplicates": Subcommand(
        "dino_jax.search.duplicates",
        "Lists same files, same pictures and similar ones; deletes nothing.",
        add_duplicates,
    ),
    "evaluate": Subcommand(
        "dino_jax.search.evaluate",
        "Measures how well photos of one product find each other.",
        add_evaluate,
    ),
    "serve": Subcommand(
        "dino_jax.search.serve", "Shows a page to search with, on this machine.", add_serve
    ),
}
