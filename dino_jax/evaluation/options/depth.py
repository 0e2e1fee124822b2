"""Depth of NYU Depth V2 from frozen patch tokens: a linear map to bins (arXiv:2304.07193).

--data is the folder with nyu_train.txt and nyu_test.txt, whose lines are IMAGE DEPTH FOCAL, with
depths as 16-bit PNG in millimeters. Trained on random crops, tested on whole images.
"""

import argparse

from dino_jax.commands.arguments import LAYERS, POSITIVE, SIDE
from dino_jax.evaluation.options.groups import Training, add_training_arguments

MAX_DEPTH = 10.0  # meters, of NYU
CROP = (416, 544)  # pixels of a training window (BTS)
USUAL = Training(steps=38_400, lr=3e-4, weight_decay=1e-3, clip=35.0, batch_size=16)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_training_arguments(parser, USUAL)
    add = parser.add_argument
    add(
        "--layers", type=LAYERS, default=4, help="1: the last block; 4: blocks over the whole depth"
    )
    add("--max-depth", type=POSITIVE, default=MAX_DEPTH, help="meters; pixels beyond do not count")
    add(
        "--crop",
        type=SIDE,
        nargs=2,
        default=list(CROP),
        help="training window, up to whole patches",
    )
    add("--no-eigen-crop", action="store_true", help="count all pixels; for sizes other than NYU's")
