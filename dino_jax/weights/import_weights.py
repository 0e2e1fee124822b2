"""Imports weights of another code base into a folder that is used like the workdir of a run.

  dino-jax import FILE --out=DIR [--network=teacher|student] [--num-heads=N]
      [--license=TEXT]

FILE is .safetensors, or .pth, .pt or .bin (read without torch, and without executing anything in
it), with the names of the official DINO and DINOv2 code, of Hugging Face's ViTModel, Dinov2Model
and Dinov2WithRegistersModel, or of timm's ViTs; or CLIP or SigLIP with the names of Hugging Face or
OpenCLIP. model.safetensors.index.json stands for all files that it names. All sizes are read off
the tensors; config.json, preprocessor_config.json and README.md beside FILE supply the rest, if
they exist (CLIP and SigLIP need them, and tokenizer.json to read texts). Every tensor is accounted
for, or the import fails with the list of those that are not.

DIR then takes the place of a workdir: dino_jax.load(DIR), config.init_from.path,
dino-jax embed, dino-jax visualize. Of a training checkpoint it holds the backbone, the heads
and the center. docs/weights.md says more.
"""

import argparse
import sys
from collections.abc import Sequence

from dino_jax.commands.arguments import filled, whole
from dino_jax.commands.command_line import CommandParser, docstring_of
from dino_jax.weights.suffixes import SUFFIXES


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; help and wrong usage end the program."""
    parser = CommandParser("import", __doc__ or docstring_of(__file__))
    add = parser.add_argument
    add("file", type=filled, help=f"file of weights: {', '.join(SUFFIXES)}")
    add("--out", type=filled, required=True, help="new folder, local or gs://")
    add(
        "--network",
        default="",
        choices=["teacher", "student"],
        help="network of a training checkpoint",
    )
    add("--num-heads", type=whole(1, 1 << 14), help="attention heads; default: 64 channels each")
    add("--license", default="", help="license of the weights, if not found beside the file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    given = parse(argv)
    from dino_jax.weights.importing import run  # jax, for a command line that is right

    return run(given)


if __name__ == "__main__":
    sys.exit(main())
