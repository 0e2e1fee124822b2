"""Draws what the network will see, to be looked at before a run.

  dino-jax show --config=vits16_vanilla --out=sheet.png --config.data.path=/data/imagenet/train \
    [--images=8] [--config.seed=1]

One row per image: the original with the box of every crop, then the crops themselves after all
augmentation, framed in the color of their box. Parameters come from the sampler of the training
stream; images and crops depend on config.seed only.
"""

import sys
from collections.abc import Sequence
from functools import partial

from etils import epath

from dino_jax.commands.arguments import whole
from dino_jax.commands.command_line import docstring_of, run_command
from dino_jax.commands.config_command import ConfigArguments, config_parser, start_logging
from dino_jax.run.arguments import parse_run


def show(given: ConfigArguments) -> str:
    """Draws and writes; returns a line about it."""
    from dino_jax.data.preview import draw_preview  # Pillow and numba: not for --help

    options = given.options
    out = epath.Path(options.out).expanduser()
    say = partial(print, file=sys.stderr)
    sheet = draw_preview(given.config, options.config, options.images, say)
    with out.open("wb") as file:
        sheet.save(file, "PNG")
    return f"{out}: {sheet.width} x {sheet.height} pixels"


def parse(argv: Sequence[str] | None) -> ConfigArguments:
    """The command line; help and wrong usage end the program."""
    parser = config_parser("show", __doc__ or docstring_of(__file__))
    parser.add_argument("--out", help="PNG file to write, local or gs://")
    parser.add_argument("--images", type=whole(1, 1000), default=8, help="how many images")
    example = "dino-jax show --config=quickstart --out=sheet.png"
    return parse_run(parser, argv, ("config", "out"), example)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    given = parse(argv)
    start_logging()
    return run_command(lambda: show(given))


if __name__ == "__main__":
    sys.exit(main())
