"""Converts an official YAML of DINOv2 or DINOv3 into a config file.

  dino-jax convert FILE --gpus=N [--out=FILE.py]

The result states every value of the YAML, with the defaults of the
official ssl_default_config.yaml for what it leaves out. Keys that the official code does not have
are errors, and so are values that nothing here does.
The YAML does not state the number of GPUs, which determines the batch: give --gpus.
"""

import argparse
import difflib
import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from dino_jax.commands import official_config, official_v3, official_v3_keys
from dino_jax.commands.arguments import filled, whole
from dino_jax.commands.command_line import CommandParser, docstring_of, run_command
from dino_jax.commands.official_config import Sections, Values
from dino_jax.config.range import Range, shorten
from dino_jax.foreign.files import read_bytes
from dino_jax.foreign.names import printable
from dino_jax.foreign.yaml_text import MAX_BYTES, parse_yaml


class Family(NamedTuple):
    """The configs of one official code base, see `official_config`.

    Attributes:
      name: of the method.
      defaults: of the keys that have a counterpart; None: a number, if it is given.
      without_counterpart: other keys, and the reasons.
      range_of: range of a number under a key.
      translate: (values, gpus) -> sections.
      notes: lines about values.
      new_sections: sections that configs/vits16_vanilla.py has not.
      only: values of keys for which there is no choice here.
      nullable: keys that may be null although their default is not.
      tables: sections that may be null.
    """

    name: str
    defaults: Values
    without_counterpart: Mapping[str, str]
    range_of: Callable[[str], Range]
    translate: Callable[[Values, int], Sections]
    notes: Callable[[Values], list[str]]
    new_sections: Collection[str]
    only: Mapping[str, tuple[Any, ...]] = MappingProxyType({})
    nullable: Collection[str] = ()
    tables: Collection[str] = ()


DINOV2 = Family(
    "DINOv2",
    official_config.DEFAULTS,
    official_config.WITHOUT_COUNTERPART,
    official_config.range_of,
    official_config.translate,
    official_config.notes,
    official_config.NEW_SECTIONS,
)
DINOV3 = Family(
    "DINOv3",
    official_v3_keys.DEFAULTS,
    official_v3_keys.WITHOUT_COUNTERPART,
    official_v3_keys.range_of,
    official_v3.translate,
    official_v3.notes,
    official_v3.NEW_SECTIONS,
    official_v3_keys.ONLY,
    official_v3_keys.NULLABLE,
    tuple(official_v3_keys.SCHEDULES),
)


def read_yaml(data: bytes) -> tuple[Family, Values, list[str]]:
    """Reads an official YAML.

    Args:
      data: the file, UTF-8.

    Returns:
      The code base that it belongs to, a value for every key of its defaults, and the keys of the
      text that have no counterpart.

    Raises:
      ValueError: if the text is not a YAML mapping, or has keys that the official code does not
        have, or values of the wrong kind or without a counterpart; lists all of them.
    """
    tree = parse_yaml(data)
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise ValueError(f"sections such as 'student:' are expected, got {str(tree)[:100]!r}")
    given = _flatten(tree)
    family = DINOV3 if any(key in given for key in official_v3_keys.MARKS) else DINOV2
    given = {key: x for key, x in given.items() if x is not None or key not in family.tables}
    known = [*family.defaults, *family.without_counterpart, *family.only]
    problems = [f"unknown key {key}{_suggest(key, known)}" for key in given if key not in known]
    problems += [
        f"{key} is {shorten(given[key])}; here it can be {' or '.join(map(repr, family.only[key]))}"
        for key in family.only.keys() & given.keys()
        if given[key] not in family.only[key]
    ]
    values = dict(family.defaults)
    for key in family.defaults.keys() & given.keys():
        try:
            values[key] = _checked(key, given[key], family)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        listed = "\n  ".join(sorted(problems))
        raise ValueError(f"the file does not match {family.name}'s configs:\n  {listed}")
    return family, values, [key for key in given if key in family.without_counterpart]


def write_config(
    sections: Sections, docstring: str, new_sections: Collection[str] = DINOV2.new_sections
) -> str:
    """Source of a config file that starts from vits16_vanilla and states all values.

    Args:
      sections: values by section, see `translate`.
      docstring: docstring of the file.
      new_sections: sections that vits16_vanilla has not.
    """
    quoted = docstring.replace("\\", "\\\\").replace('"', '\\"')
    lines = [f'"""{quoted}"""', "", "from ml_collections import ConfigDict", ""]
    lines += ["from configs import vits16_vanilla", "", "", "def get_config() -> ConfigDict:"]
    lines += ["    config = vits16_vanilla.get_config()"]
    for section, values in sections.items():
        items = {name: _literal(value) for name, value in values.items()}
        place = f"    config.{section}".rstrip(".")
        if section in new_sections:
            entries = [f"            {name}={value}," for name, value in items.items()]
            lines += [f"{place} = ConfigDict(", "        dict(", *entries, "        )", "    )"]
        elif len(items) <= 4:
            lines += [f"{place}.{name} = {value}" for name, value in items.items()]
        else:
            entries = [f"        {name}={value}," for name, value in items.items()]
            lines += [f"{place}.update(", *entries, "    )"]
    return "\n".join([*lines, "    return config", ""])


def convert(data: bytes, name: str, gpus: int) -> tuple[str, list[str]]:
    """Converts the text of an official YAML.

    Args:
      data: the file, UTF-8.
      name: name of the file, for the docstring.
      gpus: number of GPUs of the official run, at least 1.

    Returns:
      Source of our config file, and notes for the user.

    Raises:
      ValueError: as in `read_yaml` and `translate`.
    """
    family, values, unused = read_yaml(data)
    reasons = family.without_counterpart
    notes = [f"{key} has no counterpart: {reasons[key]}" for key in unused]
    notes += family.notes(values)
    images = values["train.batch_size_per_gpu"]
    docstring = (
        f"{printable(name)}, converted by dino-jax convert.\n\n"
        f"Batch: {images} images x {gpus} GPUs; masks, KoLeo and drop path in groups as on one "
        f"GPU.\n\nCommand:\n"
        "  dino-jax train --config=THIS_FILE --workdir=runs/NAME \\\n"
        "    --config.data.path=/data/imagenet/train \\\n"
        "    --config.evaluations.knn.train.path=/data/imagenet/train \\\n"
        "    --config.evaluations.knn.test.path=/data/imagenet/val\n"
    )
    source = write_config(family.translate(values, gpus), docstring, family.new_sections)
    return source, notes


def convert_file(arguments: argparse.Namespace) -> str:
    """Converts a file; returns the source to print, "" if it was written to --out.

    Raises:
      ValueError: if the file does not match, or --out exists.
      OSError: if a file can't be read or written.
    """
    path, gpus = Path(arguments.file), arguments.gpus or 1
    try:
        source, notes = convert(read_bytes(path, MAX_BYTES), path.name, gpus)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if arguments.gpus is None:
        notes.append("the batch is that of 1 GPU; give the number of GPUs of the run as --gpus=N")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if not arguments.out:
        return source.rstrip("\n")
    try:
        with Path(arguments.out).open("x", encoding="utf-8") as file:
            file.write(source)
    except FileExistsError as error:
        raise ValueError(f"{arguments.out} exists; give another --out, or remove it") from error
    return ""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; help and wrong usage end the program."""
    parser = CommandParser("convert", __doc__ or docstring_of(__file__))
    parser.add_argument("file", type=filled, help="official YAML of DINOv2 or DINOv3")
    parser.add_argument(
        "--out", type=filled, help="config file to write; without it, it is printed"
    )
    parser.add_argument(
        "--gpus", type=whole(1, 1_000_000), help="GPUs of the official run; default: 1"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    arguments = parse(argv)
    return run_command(lambda: convert_file(arguments))


def _flatten(tree: Any, prefix: str = "") -> Values:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    if not isinstance(tree, dict):
        return {prefix.removesuffix("."): tree}
    flat: Values = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.")
    return flat


def _checked(key: str, value: Any, family: Family) -> Any:
    """The value in the type of the default, if its numbers are in their range."""
    if value is None and (key in family.nullable or family.defaults[key] is None):
        return None
    converted = _converted(key, value, family.defaults[key])
    for number in converted if isinstance(converted, list) else [converted]:
        if type(number) in (int, float) and (wrong := family.range_of(key).object_to(number)):
            raise ValueError(f"{key} {wrong}")
    return converted


def _converted(key: str, value: Any, default: Any) -> Any:
    """The value in the type of the default; "1e-6", which YAML reads as text, is a number."""
    default = 0.5 if default is None else default
    try:
        if isinstance(default, list):
            if isinstance(value, list) and len(value) == len(default):
                return [float(number) for number in value]
        elif type(value) is type(default):
            return value
        elif isinstance(default, float) and type(value) in (
            int,
            float,
            str,
        ):  # a bool is an int too
            return float(value)
    except (OverflowError, TypeError, ValueError):
        pass
    raise ValueError(f"{key} is {shorten(value)}; expected something like {default!r}")


def _suggest(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"; do you mean {close[0]}?" if close else ""


def _literal(value: Any) -> str:
    if not isinstance(value, str):
        return repr(value)
    # JSON's escapes are Python's, except for what is not ASCII.
    return json.dumps(value) if value.isascii() else ascii(value)


if __name__ == "__main__":
    sys.exit(main())
