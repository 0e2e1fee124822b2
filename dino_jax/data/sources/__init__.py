"""Where images come from. A source hands out encoded files; `decode.decode_image` decodes for all.

kind         reads                                            labels
folder       a folder, any depth                              first-level folders
list         a text file of paths                             after a tab in the line
glob         all files that match a pattern                   first-level folders
arrayrecord  what `dino-jax build` has written                stored
tar          webdataset shards                                .cls or .json members
parquet      image columns as of Hugging Face                 a column
tfds         a data set prepared by TensorFlow Datasets       its class label
digits       handwritten digits that come with the package    0 to 9
mixture      several of these, by weight                      classes of equal name are one
chosen       what `dino-jax curate` kept of one of these      of that one

Fastest on a pod: arrayrecord. A folder of many small files costs one request per image on network
storage, tar shards must be indexed at every start, and shuffled parquet reads a whole row group for
each image.
"""

from dino_jax.data.sources.array_record import ArrayRecordSource
from dino_jax.data.sources.base import UNLABELED, ImageSource, Record
from dino_jax.data.sources.build import (
    SOURCES,
    ImagesConfig,
    SourceKind,
    build_source,
    is_given,
    resolve_decoding,
    said_whole,
)
from dino_jax.data.sources.digits import DigitsSource
from dino_jax.data.sources.folder import FolderSource
from dino_jax.data.sources.listing import GlobSource, ListSource
from dino_jax.data.sources.mixture import MixtureSource
from dino_jax.data.sources.parquet import ParquetSource
from dino_jax.data.sources.tar import TarSource
from dino_jax.data.sources.tfds import TfdsSource

__all__ = [
    "SOURCES",
    "UNLABELED",
    "ArrayRecordSource",
    "DigitsSource",
    "FolderSource",
    "GlobSource",
    "ImageSource",
    "ImagesConfig",
    "ListSource",
    "MixtureSource",
    "ParquetSource",
    "Record",
    "SourceKind",
    "TarSource",
    "TfdsSource",
    "build_source",
    "is_given",
    "resolve_decoding",
    "said_whole",
]
