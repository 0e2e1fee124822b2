"""Where images come from. A source hands out encoded files; `decode.decode_image` decodes for all.

kind         reads                                            labels
folder       a folder, any depth                              first-level folders
list         a text file of paths                             after a tab in the line
glob         all files that match a pattern                   first-level folders
arrayrecord  what `dino-jax build` has written stored
tar          webdataset shards                                .cls or .json members
parquet      image columns as of Hugging Face                 a column
tfds         a data set prepared by TensorFlow Datasets       its class label
digits       scikit-learn's handwritten digits                0 to 9
mixture      several of these, by weight                      classes of equal name are one

Fastest on a pod: arrayrecord. A folder of many small files costs one request per image on network
storage, tar shards must be indexed at every start, and shuffled parquet reads a whole row group for
each image.
"""

from typing import Any

from dino_jax.data.sources.array_record import ArrayRecordSource
from dino_jax.data.sources.base import UNLABELED, ImageSource, Record
from dino_jax.data.sources.config import SourceConfig, is_given
from dino_jax.data.sources.digits import DigitsSource
from dino_jax.data.sources.folder import FolderSource
from dino_jax.data.sources.listing import GlobSource, ListSource
from dino_jax.data.sources.mixture import MixtureSource
from dino_jax.data.sources.parquet import ParquetSource
from dino_jax.data.sources.tar import TarSource
from dino_jax.data.sources.tfds import TfdsSource

__all__ = [
    "UNLABELED",
    "ArrayRecordSource",
    "DigitsSource",
    "FolderSource",
    "GlobSource",
    "ImageSource",
    "ListSource",
    "MixtureSource",
    "ParquetSource",
    "Record",
    "SourceConfig",
    "TarSource",
    "TfdsSource",
    "build_source",
    "is_given",
]

_BUILDERS = {
    "folder": lambda config: FolderSource(_path(config)),
    "list": lambda config: ListSource(_path(config)),
    "glob": lambda config: GlobSource(_path(config)),
    "arrayrecord": lambda config: ArrayRecordSource(_path(config)),
    "tar": lambda config: TarSource(_path(config)),
    "parquet": lambda config: ParquetSource(
        _path(config), config.image_column, config.label_column
    ),
    "tfds": lambda config: TfdsSource(config.name, config.split, config.data_dir or None),
    "digits": lambda config: DigitsSource(config.split),
    "mixture": lambda config: _build_mixture(config.sources),
}


def build_source(config: Any) -> ImageSource:
    """Builds the source of a config.

    Args:
      config: ConfigDict with `kind`, and for "folder", "list", "glob", "arrayrecord", "tar" and
        "parquet" a `path` (local or gs://); for "parquet" also `image_column` and `label_column`;
        for "tfds" `name`, `split` and `data_dir`; for "digits" `split`; for "mixture" `sources`,
        named configs like this one, each with a `weight`.

    Raises:
      ValueError: for an unknown kind, a missing path, and as the sources say.
      OSError: for files that are not there.
      ImportError: if the kind needs a package that is not installed.
    """
    if config.kind not in _BUILDERS:
        raise ValueError(f"unknown data source {config.kind!r}; known: {sorted(_BUILDERS)}")
    return _BUILDERS[config.kind](config)


def _path(config: Any) -> str:
    if not config.path:
        raise ValueError(
            f"the {config.kind} source needs a path, got none; try --config.data.path=PATH"
        )
    return config.path


def _build_mixture(entries: Any) -> MixtureSource:
    names = list(entries)
    return MixtureSource(
        {name: build_source(entries[name]) for name in names},
        {name: entries[name].weight for name in names},
    )
