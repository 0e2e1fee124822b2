"""Copy detection on Copydays by the cls token and GeM of the patches (arXiv:2104.14294, 4.2.1).

--data is the folder with original/, strong/, jpegqual/ and crops/. Paper numbers add 10,000
--distractors and learn a whitening from 20,000 other --whitening images, both from YFCC100M.
"""

import argparse

from dino_jax.commands.arguments import BATCH, SIDE

IMSIZE = 320  # pixels, official eval_copy_detection.py


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--imsize", type=SIDE, default=IMSIZE, help="side in pixels, cut to whole patches")
    add("--distractors", default="", help="folder of images that are not copies")
    add("--whitening", default="", help="folder of images from which the whitening is learned")
    add("--reference", action="store_true", help="whitening with the covariance around 0")
    add("--batch-size", type=BATCH, default=32, help="images at once, per process")
