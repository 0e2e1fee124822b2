"""What the sources of a run hold, told from what they held at an earlier start.

An order of training images follows from their number, and what is image 17 from their names: with
other images in the same place a run that continues is another run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dino_jax.data.sources.base import Contents, ImageSource, PackedNames
from dino_jax.data.sources.decoded import DecodedSource, describe_decoding
from dino_jax.data.sources.mixture import MixtureSource

ALL_NAMES = 1 << 18  # so many names are kept, all of them; of more
SAMPLES = 1 << 14  # this many, evenly spaced, with digests of what lies between them
MAX_ASKED = 1 << 20  # names that a source is asked for one by one; more are left out, evenly
SHOWN = 3  # names in a message


@dataclass(frozen=True)
class Kept:
    """What is kept of contents, small for any number of images, as JSON.

    Attributes:
      every: names from one kept name to the next, 1 if all are kept.
      names: kept names.
      digests: digest of each kept name and the ones that follow it, [] if all are kept.
    """

    every: int
    names: Sequence[str]
    digests: Sequence[str]


def contents_of(where: str, source: ImageSource) -> dict[str, Contents]:
    """The contents of a source; of a mixture, those of its parts.

    Args:
      where: name of its section.
      source: an open source; one without a method `contents` is asked for the name of each image.
    """
    if isinstance(source, MixtureSource):
        parts = source.parts().items()
        found = (contents_of(f"{where}.sources.{name}", part) for name, part in parts)
        return {name: contents for each in found for name, contents in each.items()}
    if isinstance(source, DecodedSource):
        inner = contents_of(where, source.original)
        return {name: describe_decoding(each, source.decoding) for name, each in inner.items()}
    if hasattr(source, "contents"):
        return {where: source.contents()}  # pyright: ignore[reportAttributeAccessIssue]
    every = -(-len(source) // MAX_ASKED)
    asked = PackedNames([source.name(index) for index in range(0, len(source), every or 1)])
    return {where: Contents(len(source), asked)}


def describe_contents(contents: Mapping[str, Contents]) -> dict[str, Any]:
    """What tells images from others, for people: the number and a digest of each section's."""
    facts: dict[str, Any] = {}
    for where, each in contents.items():
        facts[f"images of {where}"] = each.images
        facts[f"names of the images of {where} (digest)"] = each.digest
    return facts


def keep(contents: Contents) -> Kept:
    """What is kept of contents."""
    count = len(contents.names)
    every = 1 if count <= ALL_NAMES else -(-count // SAMPLES)
    names = [contents.names[index] for index in range(0, count, every)]
    return Kept(every, names, _digests(contents.names, every) if every > 1 else [])


def read_kept(plain: Mapping[str, Any]) -> Kept:
    """From JSON; raises ValueErrors, KeyErrors and TypeErrors if it is something else."""
    kept = Kept(int(plain["every"]), list(plain["names"]), list(plain["digests"]))
    if kept.every < 1 or not all(isinstance(x, str) for x in (*kept.names, *kept.digests)):
        raise ValueError("these are not names")
    return kept


def describe_change(before: Kept, now: Contents) -> str:
    """How names have changed, with the first ones that did."""
    if before.every > 1:
        return _describe_chunk(before, now.names)
    names = [now.names[index] for index in range(len(now.names))]
    old, new = set(before.names), set(names)
    gone = [name for name in before.names if name not in new]
    added = [name for name in names if name not in old]
    if gone or added:
        return "; ".join(
            f"{len(some):,} {what}: {_first(some)}"
            for some, what in ((gone, "gone"), (added, "new"))
            if some
        )
    pairs = enumerate(zip(before.names, names, strict=False))
    moved = next((i for i, (a, b) in pairs if a != b), None)
    if moved is not None:
        return f"the same names in another order, from number {moved} on: {_first(names[moved:])}"
    if len(names) != len(before.names):
        return "the same names, another number of times"
    return "the same names, but other labels, sizes or shards"


def _describe_chunk(before: Kept, names: PackedNames) -> str:
    """The first place of a difference, where not all names are known any more."""
    pairs = zip(before.digests, _digests(names, before.every), strict=False)
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    if same is None:
        same = min(len(before.digests), -(-len(names) // before.every))
    start = same * before.every
    if same >= len(before.names) and start >= len(names):
        return "the same names, but other labels, sizes or shards"
    old = before.names[same] if same < len(before.names) else "the end"
    new = names[start] if start < len(names) else "the end"
    return (
        f"the first difference lies among the names {start:,} to {start + before.every - 1:,}, "
        f"which began with {old!r} and begin with {new!r}"
    )


def _digests(names: PackedNames, every: int) -> list[str]:
    starts = range(0, len(names), every)
    return [names.digest(start, min(start + every, len(names))).hex()[:16] for start in starts]


def _first(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:SHOWN])) + (", …" if len(names) > SHOWN else "")
