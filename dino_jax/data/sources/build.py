"""The section of a config that names a source of images, and the kinds of sources."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from dino_jax.config.section import kinds, option, section
from dino_jax.data.sources.array_record import ArrayRecordSource
from dino_jax.data.sources.base import ImageSource
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
    sources: dict[str, Any] = kinds(SOURCES, "mixture: sources by name", is_table=True)
    weight: float = option(1.0, "as a part of a mixture", above=0, at_most=1e9)


def build_source(config: Any, where: str = "config.data") -> ImageSource:
    """Opens the images of a section.

    Args:
      config: the section, or a mapping with some of its options.
      where: its dotted name, or another name known to the user, for messages.

    Raises:
      ValueError: for an unknown kind or option, a missing path, and as in the sources.
      OSError: for missing files.
      ImportError: if the kind needs a package that is not installed.
    """
    if not isinstance(config, ImagesConfig):
        config = section(where, config, ImagesConfig)
    kind = SOURCES[config.kind]
    for name in kind.needs:
        if not getattr(config, name):
            settable = where.startswith("config.") and name != "sources"
            hint = f"; try --{where}.{name}={name.upper()}" if settable else ""
            raise ValueError(f"{where}: the {config.kind} source needs {name!r}, got none{hint}")
    try:
        return kind.build(config, where)
    except (ValueError, OSError) as error:
        if str(error).startswith(where):  # of a part of a mixture
            raise
        classes = (FileNotFoundError, OSError, ValueError)
        as_base = next(each for each in classes if isinstance(error, each))
        raise as_base(f"{where}: {error}") from error


def is_given(config: Any) -> bool:
    """Whether a section names its images; a path of "" does not."""
    given = all(getattr(config, name) for name in SOURCES[config.kind].needs)
    return given and all(is_given(part) for _, part in config.sources.items())


def _build_mixture(config: ImagesConfig, where: str) -> MixtureSource:
    parts = dict(sorted(config.sources.items()))  # so that the order in a file means nothing
    return MixtureSource(
        {name: build_source(part, f"{where}.sources.{name}") for name, part in parts.items()},
        {name: part.weight for name, part in parts.items()},
    )


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
}
