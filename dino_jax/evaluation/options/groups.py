"""Groups of options that several protocols have."""

import argparse
import os
from typing import NamedTuple

from dino_jax.commands.arguments import (
    BATCH,
    COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    SIDE,
    STEP,
    THREADS,
    filled,
)
from dino_jax.commands.model_arguments import add_compute_argument
from dino_jax.commands.source_arguments import add_kind_arguments
from dino_jax.config.range import MAX_PIXELS

USUAL_BATCH = 128


class Training(NamedTuple):
    """Training of a probe: AdamW with a linear warm-up, then linearly to 0.

    Attributes:
      steps: updates.
      lr: largest learning rate.
      weight_decay: decoupled.
      clip: largest norm of the gradient of all parameters; 0: no limit.
      batch_size: images per update, over all processes.
    """

    steps: int
    lr: float
    weight_decay: float
    clip: float
    batch_size: int


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that every protocol has."""
    add = parser.add_argument
    add(
        "--checkpoint",
        type=filled,
        required=True,
        help="workdir of a run, or file of official weights",
    )
    add("--data", default="", help="the images, in the layout that the protocol reads")
    add("--step", type=STEP, help="checkpoint of a workdir; default: the newest")
    add_compute_argument(parser)
    add("--out", default="", help="folder for the result; default: WORKDIR/eval/STEP")
    add("--distributed", action="store_true", help="one of several processes, as on a pod")


def add_labelled_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `labelled.open_labelled` needs besides --data."""
    add = parser.add_argument
    add("--train", default="", help="training images; default: the folder train in --data")
    add("--test", default="", help="test images; default: val, validation or test in --data")
    add("--train-split", default="train", help="split of TFDS or the digits")
    add("--test-split", default="", help="default: test of the digits, validation of TFDS")
    add_kind_arguments(parser)


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `reading.reading_of` needs."""
    add = parser.add_argument
    add("--image-size", type=SIDE, help="pixels; default: as the model was evaluated")
    add(
        "--batch-size",
        type=BATCH,
        help=f"images per batch over all devices; default: {USUAL_BATCH}, or a bit more to divide",
    )
    add("--max-pixels", type=COUNT, default=MAX_PIXELS, help="larger images count as unreadable")
    add("--threads", type=THREADS, default=min(16, os.cpu_count() or 1), help="that decode")


def add_training_arguments(parser: argparse.ArgumentParser, usual: Training) -> None:
    """Adds the options that `linear_probe.training_of` needs."""
    add = parser.add_argument
    add("--steps", type=COUNT, default=usual.steps, help="updates of the probe")
    add("--lr", type=POSITIVE, default=usual.lr, help="largest learning rate")
    add("--weight-decay", type=NOT_NEGATIVE, default=usual.weight_decay, help="of AdamW")
    add(
        "--clip",
        type=NOT_NEGATIVE,
        default=usual.clip,
        help="largest norm of the gradient; 0: no limit",
    )
    add(
        "--batch-size",
        type=BATCH,
        default=usual.batch_size,
        help="images per update, in total",
    )
    add("--seed", type=SEED, default=0, help="seed of the initial weights, order and crops")
