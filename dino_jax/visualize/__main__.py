"""Draws what a backbone sees: attention, parts of objects, similar patches and images.

  dino-jax visualize attention       MODEL IMAGE... --out=DIR [--mass=0.6]
  dino-jax visualize attention       MODEL FILM.mp4 --out=DIR
  dino-jax visualize attention       MODEL FOLDER --out=DIR --film [--fps=30]
  dino-jax visualize pca             MODEL IMAGE... --out=DIR
  dino-jax visualize similar_patches MODEL IMAGE... --out=DIR --point=X,Y
  dino-jax visualize neighbours      MODEL IMAGE... --out=DIR --gallery=FOLDER [--k=5] [--as-seen]

attention        one sheet per image: the image, the mean over the heads of the attention of [CLS],
                 the patches that hold --mass of it, then every head; of a film, or with --film of
                 the images in sorted order, an MP4 with the mean over its frames
pca              objects, found by the first principal component of the patches of all images
                 jointly, colored by the components of what is left: equal colors, equal parts
similar_patches  the patch of the first image below the point (pixels from the upper left corner, at
                 the size that the network sees), and how much each patch of all images is like it
neighbours       one row per image: the photograph and its nearest ones in the gallery, with cosine
                 and name; --as-seen shows them as the network sees them

MODEL is the workdir of a run (its teacher) or a file of official weights; IMAGE is a file or a
folder. --size is the short side in pixels that the network sees (0: as is); both sides are cut
to whole patches.
"""

import argparse
import sys
from collections.abc import Sequence

from dino_jax.commands.arguments import STEP, filled, real, whole
from dino_jax.commands.command_line import CommandParser, docstring_of
from dino_jax.commands.source_arguments import add_decoding_arguments
from dino_jax.visualize.choices import IMAGES_PER_SECOND, PICTURES, SIZE


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; help and wrong usage end the program."""
    parser = CommandParser("visualize", __doc__ or docstring_of(__file__))
    add = parser.add_argument
    add("what", choices=PICTURES)
    add(
        "model", type=filled, help="workdir of a run, folder of dino-jax import, or file of weights"
    )
    add("images", type=filled, nargs="+", help="files or folders; attention: also films")
    add("--out", type=filled, required=True, help="folder for the pictures")
    add("--step", type=STEP, help="checkpoint of a workdir; default: the newest")
    add(
        "--size",
        type=whole(0, 1 << 14),
        help=f"short side in pixels; default {SIZE} for a model of 224 pixels",
    )
    add("--film", action="store_true", help="attention: the images are frames of a film")
    add(
        "--fps",
        type=real(at_least=0, at_most=1000),
        default=0,
        help=f"frames per second; default: the film's, {IMAGES_PER_SECOND}",
    )
    add("--mass", type=real(above=0, at_most=1), default=0.6, help="attention: share that is kept")
    add("--point", default="", help="similar_patches: X,Y in pixels")
    add("--gallery", default="", help="neighbours: folder to search in")
    add("--k", type=whole(1, 1000), default=5, help="neighbours: number of images")
    add_decoding_arguments(parser)
    add("--as-seen", action="store_true", help="neighbours: images as the network sees them")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    arguments = parse(argv)
    from dino_jax.visualize.draw import run  # jax, for a command line that is right

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
