"""The section of a config that says where images come from."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, get_args

from dino_jax.config.section import kinds, option

Kind = Literal[
    "folder", "list", "glob", "arrayrecord", "tar", "parquet", "tfds", "digits", "mixture"
]
WITHOUT_PATH = ("digits", "tfds")
_PARTS: dict[str, Any] = {}  # of a mixture: every kind has the section of the whole


@dataclass(frozen=True)
class SourceConfig:
    """Where images come from; a kind reads the options that it needs."""

    kind: Kind = option("folder", "what is read")
    path: str = option("", "folder, file or pattern, local or gs://; all but tfds, digits, mixture")
    name: str = option("imagenet2012", "tfds: data set")
    split: str = option("train", "tfds, digits: part")
    data_dir: str = option("", "tfds: where it was prepared; '': the usual place")
    image_column: str = option("", "parquet; '': the only column that holds images")
    label_column: str = option("", "parquet; '': no labels")
    sources: dict[str, Any] = kinds(_PARTS, "mixture: sources by name", is_table=True)
    weight: float = option(1.0, "as a part of a mixture", above=0)


_PARTS.update({kind: SimpleNamespace(Config=SourceConfig) for kind in get_args(Kind)})


def is_given(config: Any) -> bool:
    """Whether a section says which images are meant; a path of "" does not."""
    if config.kind == "mixture":
        parts = [part for _, part in config.sources.items()]
        return bool(parts) and all(is_given(part) for part in parts)
    return config.kind in WITHOUT_PATH or bool(config.path)
