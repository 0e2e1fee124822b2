"""Every option of a config, from the sections that declare them."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from dino_jax.config.section import About, config_class, describe_type, options
from dino_jax.run.whole_config import Config
from docs.generators.markdown import code, plain, table, toctree


class Row(NamedTuple):
    """One option: its name in the section, and what the section declares about it."""

    name: str
    type: str
    range: str
    default: str
    meaning: str


class Section(NamedTuple):
    """Options that stand together.

    Attributes:
      place: dotted name; NAME is a name that the config chooses.
      kind: value of `kind` for which these options hold; "" if there is one kind only.
      meaning: one line.
      config: the dataclass.
      default: an instance with the values by default at this place.
    """

    place: str
    kind: str
    meaning: str
    config: type
    default: Any


def sections(
    config: type = Config, place: str = "config", default: Any = None, meaning: str = ""
) -> Iterator[Section]:
    """A section and all sections in it; of tables, one section for each kind."""
    default = config() if default is None else default
    yield Section(place, "", meaning, config, default)
    yield from _inner(config, place, default, (config,))


def _inner(config: type, place: str, default: Any, around: tuple[type, ...]) -> Iterator[Section]:
    for name, (hint, about) in options(config).items():
        for section in _of_option(f"{place}.{name}", hint, about, getattr(default, name)):
            yield section
            if section.config not in around:  # mixtures hold sources, which may be mixtures
                yield from _inner(
                    section.config, section.place, section.default, (*around, section.config)
                )


def _of_option(place: str, hint: Any, about: About, value: Any) -> list[Section]:
    """The sections that an option is; none for a plain value."""
    if about.entry is not None:
        return [Section(f"{place}.NAME", "", about.meaning, about.entry, about.entry())]
    if about.kinds is not None:
        inner = f"{place}.NAME" if about.is_table else place
        made = {kind: config_class(about.kinds, kind) for kind in sorted(about.kinds)}
        return [
            Section(inner, kind, about.meaning, config, config()) for kind, config in made.items()
        ]
    if dataclasses.is_dataclass(hint):
        kind: Any = hint
        return [Section(place, "", about.meaning, kind, value)]
    return []


def rows(section: Section) -> list[Row]:
    """The options of a section that are values, not sections."""
    found = []
    for name, (hint, about) in options(section.config).items():
        value = getattr(section.default, name)
        if _of_option("", hint, about, value):
            continue
        if about.is_table:
            continue
        words = describe_type(hint).removeprefix("a ").removeprefix("an ")
        if about.among is not None:
            words = " | ".join(map(str, about.among))
        default = repr(section.kind) if name == "kind" and section.kind else repr(value)
        found.append(Row(name, words, str(about.bounds), default, about.meaning))
    return found


def option_pages() -> dict[str, str]:
    """A page for each section right below `config`, by name, and "index" for what is above them."""
    whole = list(sections())
    names = list(dict.fromkeys(s.place.split(".")[1] for s in whole[1:]))
    pages = {
        name: _page(name, [s for s in whole[1:] if s.place.split(".")[1] == name]) for name in names
    }
    intro = (
        "Every option, as its section declares it: this page is made from the code. "
        "`dino-jax config NAME` prints all of them with the values of a config. "
        "On a command line an option is `--config.optimizer.lr=1e-3`. NAME is a name that the "
        "config chooses, and `kind` picks the options of a section where there are several kinds. "
        "How configs and overrides work: [configs](../../configs.md)."
    )
    pages["index"] = (
        "\n\n".join(
            ["# Options of a config", intro, _table(whole[0]), toctree(names, ":maxdepth: 1")]
        )
        + "\n"
    )
    return pages


def _page(name: str, found: list[Section]) -> str:
    parts, shown = [f"# config.{name}"], {}
    for (place, _), same in itertools.groupby(found, key=lambda s: (s.place, s.config)):
        section, *others = same
        kinds = [s.kind for s in (section, *others) if s.kind]
        if len(parts) > 1 or place != f"config.{name}" or kinds:
            parts.append(f"## {place}" + (f", kind {', '.join(kinds)}" if kinds else ""))
        parts.append(f"{section.meaning[0].upper()}{section.meaning[1:]}.")
        first = shown.setdefault(section.config, section)
        parts.append(_table(section) if first is section else _again(section, first))
    return "\n\n".join(parts) + "\n"


def _table(section: Section) -> str:
    found = rows(section)
    if not found:
        return "No options of its own."
    return table(
        ("option", "type", "range", "default", "meaning"),
        ((code(r.name), r.type, r.range, code(r.default), plain(r.meaning)) for r in found),
    )


def _again(section: Section, first: Section) -> str:
    """A section whose dataclass has a table already: what is different by default."""
    pairs = zip(rows(section), rows(first), strict=True)
    other = [
        f"{code(mine.name)} is {code(mine.default)}"
        for mine, theirs in pairs
        if mine.default != theirs.default and mine.name != "kind"
    ]
    text = f"The options of `{first.place}`, above"
    return f"{text}; by default {', '.join(other)}." if other else f"{text}."
