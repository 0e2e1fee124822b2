"""Exports a trained backbone: weights for another code base, or a program that runs alone.

  dino-jax export MODEL --out=FILE --names=official|huggingface|timm [--heads] [--step=N]
  dino-jax export MODEL --out=FILE --format=onnx|stablehlo [--image-size=518] [--step=N]
      [--int8=IMAGES]

MODEL is the workdir of a run (its teacher), a folder of dino-jax import, or a file of
weights. Of weights FILE is .safetensors, or .pth where torch is installed. Official names are those
of the released files of DINO, DINOv2 and MAE; --heads adds the projection heads, as in the
checkpoints of training runs, or the decoder of MAE. With --names=huggingface config.json is written
beside FILE; --out=DIR makes DIR/model.safetensors, and transformers' from_pretrained(DIR) reads it.

FILE.onnx and FILE.stablehlo (jax.export, for CPUs, NVIDIA GPUs and TPUs) take images
[B, H, W, 3] uint8 of one size, any number of them, and give the features by name: cls, patches and
so on. The first needs the extra "onnx"; weights of more than 2 GB lie beside it, in FILE.onnx.data.
With --int8=IMAGES its matrix products are in 8 bits, for CPUs, and the loss in k-NN is measured on
that folder of images, best one of a folder per class.

The file is read back and checked: all numbers are the same, and so are the features of random
images. FILE.provenance.json beside it says where the weights come from; keep them together.
"""

import argparse
import sys
from collections.abc import Sequence

from dino_jax.commands.arguments import STEP, filled, size
from dino_jax.commands.command_line import CommandParser, docstring_of, run_command

NAMES = ("official", "huggingface", "timm")
FORMATS = ("weights", "onnx", "stablehlo")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; help and wrong usage end the program."""
    parser = CommandParser("export", __doc__ or docstring_of(__file__))
    add = parser.add_argument
    add("model", type=filled, help="workdir of a run, folder of an import, or file of weights")
    add("--out", type=filled, required=True, help="new file; its suffix is that of the format")
    add("--format", choices=FORMATS, default="weights", help="default: weights")
    add("--names", choices=NAMES, help="whose names (weights)")
    add(
        "--heads",
        action="store_true",
        help="with the projection heads (official names), or with the decoder of MAE",
    )
    add("--image-size", type=size, help="518, or 224x336 for HEIGHTxWIDTH (onnx, stablehlo)")
    add("--int8", type=filled, help="folder of images to measure the loss of 8 bits on (onnx)")
    add("--step", type=STEP, help="checkpoint of a workdir; default: the newest")
    given = parser.parse_args(argv)
    if given.format == "weights":
        if not given.names:
            parser.error(f"missing --names, one of {', '.join(NAMES)}")
        if given.int8:
            parser.error("--int8 is for --format=onnx")
        if given.image_size:
            parser.error("--image-size is for --format=onnx and --format=stablehlo")
    elif given.names or given.heads:
        parser.error(f"--names and --heads are for weights, not for --format={given.format}")
    elif given.int8 and given.format != "onnx":
        parser.error(f"--int8 is for --format=onnx, not for --format={given.format}")
    return given


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    given = parse(argv)

    def work() -> str:  # imports jax, for a command line that is right
        if given.format == "weights":
            from dino_jax.weights.exporting import export_weights

            lines = export_weights(given.model, given.out, given.names, given.heads, given.step)
        else:
            from dino_jax.weights.graph_export import export_graph

            lines = export_graph(
                given.model, given.out, given.format, given.image_size, given.step, given.int8 or ""
            )
        return "\n".join(lines)

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
