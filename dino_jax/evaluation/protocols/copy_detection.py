"""Copy detection by frozen features: views, whitening, rankings, mAP.

Its options and its help are in `options.copy_detection`.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from dino_jax.data.sources import FolderSource
from dino_jax.evaluation.copydays import Block, Copydays, read_copydays
from dino_jax.evaluation.image_files import BatchEmbedder, Prepare, embed_files, name_files
from dino_jax.evaluation.knn import normalize_rows
from dino_jax.evaluation.ranking import average_precision, rank_database
from dino_jax.evaluation.result import Result
from dino_jax.evaluation.sharing import open_same
from dino_jax.evaluation.whitening import fit_whitening, gem
from dino_jax.models.network import Network
from dino_jax.processes.agreement import Agreement
from dino_jax.weights.limits import check_side
from dino_jax.weights.model import Model

FIRST = 20  # first results of a ranking that count, as there


def evaluate(model: Model, arguments: argparse.Namespace, agreement: Agreement) -> Result:
    """Mean average precision of every kind of copy, in percent.

    Raises:
      ValueError: if an option is out of range, or files do not match.
      OSError: if the data set is missing.
    """
    check_side(model, arguments.imsize, "--imsize")
    data, distractors, training = open_same(agreement, partial(open_parts, arguments), files_of)
    copies = [path for block in data.blocks for path in block.files]
    parts = [data.originals, distractors, training, copies]
    files = [path for part in parts for path in part]
    size = arguments.imsize // model.network.backbone.patch_size * model.network.backbone.patch_size
    embedder = BatchEmbedder(model, copy_features)
    features, readable = embed_files(
        files, square_view(size), embedder, arguments.batch_size, "copies"
    )
    ends = np.cumsum([len(part) for part in parts])
    originals, others, train, queries = np.split(np.arange(len(files)), ends[:-1])
    database = np.concatenate([originals, others])
    rows = features[0]
    if training:
        whitening = fit_whitening(rows[train][readable[train]], arguments.reference)
        rows = whitening(rows)
    rows = normalize_rows(rows)
    shown = database[readable[database]]
    rankings = shown[rank_database(rows[queries], rows[shown])[:, :FIRST]]
    metrics = score_blocks(data.blocks, rankings, readable[queries], readable[originals])
    return Result(
        metrics,
        {
            "originals": len(originals),
            "distractors": len(others),
            "whitening_images": len(train),
            "reference": arguments.reference,
            "imsize": size,
            "copies": {block.name: len(block.files) for block in data.blocks},
            "unreadable": name_files(files, readable),
        },
    )


def copy_features(network: Network, variables: Any, images: jax.Array) -> jax.Array:
    """[B, 2 D] cls tokens and GeM of the patch tokens, as a `Take`."""
    features: Any = network.apply(variables, images)
    cls, patches = (features[name].astype(jnp.float32) for name in ("cls", "patches"))
    return jnp.concatenate([cls, gem(patches)], axis=-1)


def square_view(size: int) -> Prepare:
    """Resizes every image, of any shape, to a square of `size` pixels, bicubic.

    Raises:
      ValueError: if the size is less than a patch, which rounds it to 0.
    """
    if not size:
        raise ValueError("--imsize is smaller than one patch")

    def prepare(number: int, pixels: np.ndarray) -> list[np.ndarray]:
        del number
        image = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
        return [np.array(image)]

    return prepare


def score_blocks(
    blocks: Sequence[Block],
    rankings: np.ndarray,
    readable: np.ndarray,
    original_readable: np.ndarray,
) -> dict[str, float]:
    """Mean average precision of every block, in percent.

    Args:
      blocks: blocks of copies.
      rankings: [Q, FIRST] files of the database for all copies, block after block.
      readable: bool [Q]; unreadable copies do not count.
      original_readable: bool [N]; copies of unreadable originals only do not count.

    Raises:
      ValueError: if no copy of a block counts.
    """
    metrics, start = {}, 0
    for block in blocks:
        values = []
        for row, originals in enumerate(block.originals, start):
            positives = [index for index in originals if original_readable[index]]
            if readable[row] and positives:
                ranks = np.flatnonzero(np.isin(rankings[row], positives))
                values.append(average_precision(ranks, len(positives)))
        if not values:
            raise ValueError(f"no image of {block.name} can be read, or none of their originals")
        metrics[f"mAP_{block.name}"] = 100 * float(np.mean(values))
        start += len(block.files)
    return metrics


def open_parts(arguments: argparse.Namespace) -> tuple[Copydays, list[str], list[str]]:
    """The data set, and the files of the distractors and of the whitening."""
    data = read_copydays(arguments.data)
    return data, _list(arguments.distractors), _list(arguments.whitening)


def files_of(opened: tuple[Copydays, list[str], list[str]]) -> dict[str, list[str]]:
    """The files of all parts, by what a message calls them."""
    data, distractors, training = opened
    copies = [path for block in data.blocks for path in block.files]
    found = {"--data": data.originals, "the copies": copies}
    return found | {"--distractors": distractors, "--whitening": training}


def _list(folder: str) -> list[str]:
    if not folder:
        return []
    source = FolderSource(folder)
    return [source.path(index) for index in range(len(source))]
