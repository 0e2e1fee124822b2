"""Logistic regression on the cls token by L-BFGS (arXiv:2304.07193, Section 7.1)."""

import argparse

import numpy as np

from dino_jax.commands.arguments import COUNT, POSITIVE
from dino_jax.evaluation.options.groups import add_labelled_arguments, add_reading_arguments

STRENGTHS = tuple((10.0 ** np.linspace(-6, 5, 45)).tolist())  # of DINOv2
MAX_ITERATIONS = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_labelled_arguments(parser)
    add_reading_arguments(parser)
    add = parser.add_argument
    add(
        "--C",
        type=POSITIVE,
        nargs="+",
        default=list(STRENGTHS),
        help="inverse strengths of the penalty to choose from; default: 45 from 1e-6 to 1e5",
    )
    add(
        "--max-iterations",
        type=COUNT,
        default=MAX_ITERATIONS,
        help="iterations of L-BFGS for each C",
    )
