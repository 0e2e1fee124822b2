"""Retrieval of buildings by frozen cls tokens: views, rankings, mAP.

Its options and its help are in `options.retrieval`.
"""

import argparse
from collections.abc import Sequence
from functools import partial

import numpy as np
from PIL import Image

from dino_jax.evaluation.features import cls_token
from dino_jax.evaluation.image_files import (
    BatchEmbedder,
    Prepare,
    cut_to_patches,
    embed_files,
    name_files,
    normalize_pixels,
)
from dino_jax.evaluation.multi_scale import SCALES, combine_scales, scale_image
from dino_jax.evaluation.ranking import Scores, rank_database, score_rankings
from dino_jax.evaluation.result import Result
from dino_jax.evaluation.revisited import SETUPS, Revisited, queries_of, read_revisited
from dino_jax.evaluation.sharing import open_same
from dino_jax.processes.agreement import Agreement
from dino_jax.weights.limits import check_side
from dino_jax.weights.model import Model


def evaluate(model: Model, arguments: argparse.Namespace, agreement: Agreement) -> Result:
    """mAP and mP@1, 5, 10 for the setups medium and hard.

    Raises:
      ValueError: if an option is out of range or the ground truth is malformed.
      OSError: if the data set or a part of it is missing.
    """
    check_side(model, arguments.imsize, "--imsize")
    data = open_same(
        agreement,
        partial(read_revisited, arguments.data),
        lambda data: {"the database": data.database, "the queries": data.queries},
    )
    scales = SCALES if arguments.multiscale else (1.0,)
    files = [*data.database, *data.queries]
    views = make_views(model, data, arguments.imsize, scales, arguments.query_boxes)
    embedder = BatchEmbedder(model, cls_token)
    features, readable = embed_files(files, views, embedder, arguments.batch_size, "retrieval")
    scores = score(data, combine_scales(features), readable)
    return Result(
        {
            name: value
            for setup, found in scores.items()
            for name, value in name_scores(setup, found)
        },
        {
            "data": data.name,
            "images": len(data.database),
            "queries": len(data.queries),
            "counted": {setup: found.queries for setup, found in scores.items()},
            "imsize": arguments.imsize,
            "scales": list(scales),
            "query_boxes": arguments.query_boxes,
            "unreadable": name_files(files, readable),
        },
    )


def make_views(
    model: Model, data: Revisited, imsize: int, scales: Sequence[float], query_boxes: bool
) -> Prepare:
    """Views of each file of the database and, after them, of the queries."""
    network, first_query = model.network, len(data.database)

    def prepare(number: int, pixels: np.ndarray) -> list[np.ndarray]:
        image = Image.fromarray(pixels)
        if query_boxes and number >= first_query:
            image = image.crop(tuple(data.boxes[number - first_query]))
        image.thumbnail((imsize, imsize), Image.Resampling.LANCZOS)
        normalized = normalize_pixels(np.array(image), network.mean, network.std)
        patch_size = network.backbone.patch_size
        return [cut_to_patches(scale_image(normalized, scale), patch_size) for scale in scales]

    return prepare


def score(data: Revisited, features: np.ndarray, readable: np.ndarray) -> dict[str, Scores]:
    """Scores of every setup.

    Args:
      data: the data set.
      features: [N + Q, D] of the database and then the queries, of length 1.
      readable: bool [N + Q]; unreadable images of the database are left out of all rankings, and
        unreadable queries are skipped.
    """
    count = len(data.database)
    lost = np.flatnonzero(~readable[:count]).tolist()
    asked = np.flatnonzero(readable[count:])
    rankings = rank_database(features[count + asked], features[:count])
    scores = {}
    for setup in SETUPS:
        queries = queries_of(data, setup, lost)
        scores[setup] = score_rankings(rankings, [queries[index] for index in asked])
    return scores


def name_scores(setup: str, scores: Scores) -> list[tuple[str, float]]:
    """The metrics of one setup, in percent."""
    precision = [(f"mP@{k}_{setup}", 100 * value) for k, value in scores.precision.items()]
    return [(f"mAP_{setup}", 100 * scores.mean_ap), *precision]
