"""Retrieval of buildings in revisited Oxford or Paris (arXiv:1803.11285), by the cls token.

--data is the folder with gnd_roxford5k.pkl (or gnd_rparis6k.pkl) and jpg/. DINO's numbers are with
--imsize=224 for Oxford and --imsize=512 --multiscale for Paris, and with whole query images; the
authors of the data sets ask for --query-boxes.
"""

import argparse

from dino_jax.commands.arguments import BATCH, SIDE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--imsize",
        type=SIDE,
        default=224,
        help="long side in pixels; smaller images are not enlarged",
    )
    add("--multiscale", action="store_true", help="mean over the scales 1, 0.71 and 0.5")
    add("--query-boxes", action="store_true", help="cut queries to their box")
    add("--batch-size", type=BATCH, default=32, help="images of equal shape per batch, per process")
