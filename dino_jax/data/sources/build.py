"""The section of a config that names a source of images, and the kinds of sources."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from dino_jax.config.section import kinds, option, section
from dino_jax.data.decoding import (
    MOST_CHANNELS,
    RGB,
    Decoding,
    build_decoding,
    with_decoding,
)
from dino_jax.data.sources.array_record import ArrayRecordSource
from dino_jax.data.sources.base import ImageSource
from dino_jax.data.sources.chosen import ChosenSource
from dino_jax.data.sources.decoded import decoded
from dino_jax.data.sources.digits import DigitsSource
from dino_jax.data.sources.folder import FolderSource
from dino_jax.data.sources.listing import GlobSource, ListSource
from dino_jax.data.sources.mixture import MixtureSource
from dino_jax.data.sources.parquet import ParquetSource
from dino_jax.data.sources.tar import TarSource
from dino_jax.data.sources.tfds import TfdsSource


class SourceKind(NamedTuple):
    """One kind of source.

    Attributes:
      needs: options that must not be empty.
      build: makes the source of a section; also gets the section's dotted name.
      Config: dataclass of the section.
    """

    needs: tuple[str, ...]
    build: Callable[[Any, str], ImageSource]
    Config: type


SOURCES: dict[str, SourceKind] = {}


@dataclass(frozen=True)
class ImagesConfig:
    """Where images come from; a kind reads the options that it needs."""

    kind: str = option("folder", "what is read", among=SOURCES)
    path: str = option("", "folder, file or pattern, local or gs://; all but tfds, digits, mixture")
    name: str = option("imagenet2012", "tfds: data set")
    split: str = option("train", "tfds, digits: part")
    data_dir: str = option("", "tfds: where it was prepared; '': the usual place")
    image_column: str = option("", "parquet; '': the only column that holds images")
    label_column: str = option("", "parquet; '': no labels")
    channels: int = option(
        0,
        "of an image; 0: those of config.data, of a mixture those of all, there 3",
        at_least=0,
        at_most=MOST_CHANNELS,
    )
    range: str = option(
        "",
        "numbers that become black and white: byte (only images of 8 bits), full (of their type), "
        "LOW,HIGH, or LOW%,HIGH% (percentiles of each channel of an image); '' as above: byte",
    )
    clip: bool = option(
        False, "numbers outside of LOW,HIGH become these; else such an image is unreadable"
    )
    orientation: str = option(
        "", "of EXIF: apply or ignore; '' as above: ignore, as the official code does"
    )
    sources: dict[str, Any] = kinds(SOURCES, "mixture: sources by name; chosen: one", is_table=True)
    weight: float = option(1.0, "as a part of a mixture", above=0, at_most=1e9)


def build_source(config: Any, where: str = "config.data", otherwise: Decoding = RGB) -> ImageSource:
    """Opens the images of a section.

    Args:
      config: the section, or a mapping with some of its options.
      where: its dotted name, or another name known to the user, for messages.
      otherwise: how images are decoded where the section does not say it.

    Raises:
      ValueError: for an unknown kind or option, a missing path, and as in the sources.
      OSError: for missing files.
      ImportError: if the kind needs a package that is not installed.
    """
    if not isinstance(config, ImagesConfig):
        config = section(where, config, ImagesConfig)
    kind, decoding = SOURCES[config.kind], build_decoding(where, config, otherwise)
    for name in kind.needs:
        if not getattr(config, name):
            settable = where.startswith("config.") and name != "sources"
            hint = f"; try --{where}.{name}={name.upper()}" if settable else ""
            raise ValueError(f"{where}: the {config.kind} source needs {name!r}, got none{hint}")
    try:
        if config.sources:  # each of them says how it is decoded
            return kind.build(_fill_parts(config, decoding), where)
        return decoded(kind.build(config, where), decoding)
    except (ValueError, OSError) as error:
        if str(error).startswith(where):  # of a part of a mixture
            raise
        classes = (FileNotFoundError, OSError, ValueError)
        as_base = next(each for each in classes if isinstance(error, each))
        raise as_base(f"{where}: {error}") from error


def said_whole(config: Mapping[str, Any], where: str, otherwise: Decoding) -> dict[str, Any]:
    """A section of images that says all of how they are decoded.

    Args:
      config: some options of the section.
      where: its name, for messages.
      otherwise: how images are decoded where it does not say it.

    Raises:
      ValueError: if an option is unknown or out of range.
    """
    images = section(where, config, ImagesConfig)
    return {**config, **asdict(build_decoding(where, images, otherwise))}


def resolve_decoding(config: Any, where: str, otherwise: Decoding) -> ImagesConfig:
    """The same, of a whole section, as its dataclass; for the arguments see `said_whole`."""
    images = section(where, config, ImagesConfig)
    return with_decoding(images, build_decoding(where, images, otherwise))


def is_given(config: Any) -> bool:
    """Whether a section names its images; a path of "" does not."""
    given = all(getattr(config, name) for name in SOURCES[config.kind].needs)
    return given and all(is_given(part) for _, part in config.sources.items())


def _fill_parts(config: ImagesConfig, decoding: Decoding) -> ImagesConfig:
    """A section whose parts say all of how they are decoded."""
    parts = {
        name: with_decoding(part, build_decoding(f"sources.{name}", part, decoding))
        for name, part in config.sources.items()
    }
    return replace(config, sources=parts)


def _build_mixture(config: ImagesConfig, where: str) -> MixtureSource:
    parts = dict(sorted(config.sources.items()))  # so that the order in a file means nothing
    return MixtureSource(
        {name: build_source(part, f"{where}.sources.{name}") for name, part in parts.items()},
        {name: part.weight for name, part in parts.items()},
    )


def _build_chosen(config: ImagesConfig, where: str) -> ChosenSource:
    if len(config.sources) != 1:
        raise ValueError(
            f"{where}.sources has {sorted(config.sources)}; a list is of one source: "
            "sources.pool = images(...)"
        )
    ((name, part),) = config.sources.items()
    return ChosenSource(config.path, build_source(part, f"{where}.sources.{name}"))


def _by_path(source: Callable[[str], ImageSource]) -> SourceKind:
    return SourceKind(("path",), lambda config, where: source(config.path), ImagesConfig)


SOURCES |= {
    "folder": _by_path(FolderSource),
    "list": _by_path(ListSource),
    "glob": _by_path(GlobSource),
    "arrayrecord": _by_path(ArrayRecordSource),
    "tar": _by_path(TarSource),
    "parquet": SourceKind(
        ("path",),
        lambda config, where: ParquetSource(config.path, config.image_column, config.label_column),
        ImagesConfig,
    ),
    "tfds": SourceKind(
        ("name", "split"),
        lambda config, where: TfdsSource(config.name, config.split, config.data_dir or None),
        ImagesConfig,
    ),
    "digits": SourceKind(
        ("split",), lambda config, where: DigitsSource(config.split), ImagesConfig
    ),
    "mixture": SourceKind(("sources",), _build_mixture, ImagesConfig),
    "chosen": SourceKind(("path", "sources"), _build_chosen, ImagesConfig),
}
