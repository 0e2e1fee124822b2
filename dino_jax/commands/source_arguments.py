"""The arguments of a command line that name a source of images."""

import argparse
from typing import Any

from dino_jax.commands.arguments import CHANNELS, filled
from dino_jax.commands.config_file import load_config

ORIENTATIONS = ("apply", "ignore")


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds SOURCE and the options that some kinds of it need."""
    add = parser.add_argument
    add("source", nargs="?", default="", help="folder, list, pattern, shards or config file")
    add("--split", default="train", help="split of TFDS or the digits")
    add_kind_arguments(parser)


def add_kind_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds options that do not depend on the part of a data set."""
    add = parser.add_argument
    add("--kind", default="folder", help="kind of source, as config.data.kind")
    add("--name", default="", help="name of the TFDS data set")
    add("--data-dir", default="", help="of TFDS")
    add("--image-column", default="", help="column of Parquet; default: the only one with images")
    add("--label-column", default="", help="column of Parquet; default: no labels")
    add_decoding_arguments(parser)


def add_decoding_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds options that say how an image becomes pixels; where not given, None or False."""
    add = parser.add_argument
    add("--channels", type=CHANNELS, help="of an image; default: as the model takes, or 3")
    add(
        "--range",
        type=filled,
        help="numbers that become black and white: byte (8 bits only), full (of their type), "
        "LOW,HIGH or LOW%%,HIGH%% (percentiles); default: as the model was trained, or byte",
    )
    add("--clip", action="store_true", help="cut numbers outside of --range=LOW,HIGH off")
    add("--orientation", choices=ORIENTATIONS, help="of EXIF; default: apply")


def given_decoding(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_decoding_arguments` that were given, as a section of images has them."""
    names = ("channels", "range", "clip", "orientation")
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name)}


def source_config(arguments: argparse.Namespace) -> dict[str, Any]:
    """The config of the source that the command line names, as plain values."""
    if arguments.source.endswith(".py"):
        config: Any = load_config(arguments.source)
        return {**config.data.to_dict(), **given_decoding(arguments)}
    return part_config(arguments, arguments.source, arguments.split)


def part_config(arguments: argparse.Namespace, path: str, split: str) -> dict[str, Any]:
    """The config of one part of a data set, with the options of `add_kind_arguments`."""
    return {
        "kind": arguments.kind,
        "path": path,
        "name": arguments.name,
        "split": split,
        "data_dir": arguments.data_dir,
        "image_column": arguments.image_column,
        "label_column": arguments.label_column,
        **given_decoding(arguments),
    }
