"""The arguments of a command line that say how a model computes."""

import argparse

DTYPES = ("float32", "bfloat16")


def add_compute_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --compute; "" where not given."""
    parser.add_argument(
        "--compute",
        choices=DTYPES,
        default="",
        help="dtype of the activations; bfloat16 is faster on TPUs, GPUs and CPUs that have it; "
        "default: as the model was trained, float32 for files of weights",
    )
