"""Video object segmentation on DAVIS 2017 by label propagation, without training.

--data is the folder DAVIS (ImageSets/2017, JPEGImages/480p, Annotations/480p). The masks of the
first frame travel along similar patches, as in DINO (arXiv:2104.14294, Section 4.2.1); J and F are
those of the DAVIS tool for the semi-supervised task.
"""

import argparse
from typing import NamedTuple

from dino_jax.commands.arguments import COUNT, SIDE, whole

SHORT_SIDE = 480  # pixels


class Propagation(NamedTuple):
    """Options of propagation; defaults of the official eval_video_segmentation.py.

    Attributes:
      frames: number of last frames that labels come from, besides the first one.
      top_k: sources of a patch, over all frames; further ones that are equally similar count, too.
      radius: largest distance of a source in patches along either axis; 0: no limit.
      temperature: temperature of the similarity, > 0.
    """

    frames: int = 7
    top_k: int = 5
    radius: int = 12
    temperature: float = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    usual, add = Propagation(), parser.add_argument
    add("--split", default="val", help="list of videos in ImageSets/2017")
    add("--short-side", type=SIDE, default=SHORT_SIDE, help="short side of a frame in pixels")
    add(
        "--frames",
        type=COUNT,
        default=usual.frames,
        help="number of last frames that labels come from",
    )
    add(
        "--top-k",
        type=COUNT,
        default=usual.top_k,
        help="number of most similar patches that labels come from",
    )
    add(
        "--radius",
        type=whole(0),
        default=usual.radius,
        help="largest distance in patches; 0: the whole frame",
    )
    add("--masks", default="", help="folder for the predicted masks, VIDEO/00001.png …")
    add("--reference", action="store_true", help="red divided by 0.228, as in the official code")
