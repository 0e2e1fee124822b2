"""Weighted k-NN classification by the cls token (arXiv:2104.14294, Section 4.1).

A folder --data without train/ and val/ that holds one folder per class is evaluated leave-one-out:
every image is classified by all others.
"""

import argparse

from dino_jax.commands.arguments import COUNT, POSITIVE
from dino_jax.evaluation.options.groups import add_labelled_arguments, add_reading_arguments

K = (10, 20, 100, 200)  # of both papers
TEMPERATURE = 0.07
CONVENTIONS = ("dino", "dinov2")  # whose votes: keys of `knn.WEIGHTS`


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_labelled_arguments(parser)
    add_reading_arguments(parser)
    add = parser.add_argument
    add("--k", type=COUNT, nargs="+", default=list(K), help="numbers of neighbors")
    add("--temperature", type=POSITIVE, default=TEMPERATURE, help="of the vote")
    add("--convention", default="dino", choices=CONVENTIONS, help="how votes are weighted")
    add("--per-class", type=COUNT, nargs="+", default=[], help="few-shot: images of each class")
    add("--tries", type=COUNT, default=1, help="few-shot: draws that are averaged")
