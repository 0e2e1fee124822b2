"""Semantic segmentation: BatchNorm and a linear map on frozen patch tokens (arXiv:2304.07193).

--data is ADEChallengeData2016 (images/, annotations/) or VOCdevkit/VOC2012 (JPEGImages/,
SegmentationClass/, ImageSets/). Trained on random crops; tested with a sliding window.
"""

import argparse

from dino_jax.commands.arguments import LAYERS, SIDE, real
from dino_jax.evaluation.options.groups import Training, add_training_arguments

WINDOW, STRIDE = 512, 341  # pixels of a window, and from window to window
USUAL = Training(steps=40_000, lr=1e-3, weight_decay=1e-3, clip=0.0, batch_size=16)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_training_arguments(parser, USUAL)
    add = parser.add_argument
    add("--layers", type=LAYERS, default=1, help="number of last blocks whose features are used")
    add(
        "--scales",
        type=real(at_least=1, at_most=100),
        nargs="+",
        default=[1.0],
        help="scales of a test image, averaged",
    )
    add("--mirror", action="store_true", help="also use mirrored test images")
    add(
        "--side",
        type=SIDE,
        default=WINDOW,
        help="side of a window in pixels, rounded up to whole patches",
    )
