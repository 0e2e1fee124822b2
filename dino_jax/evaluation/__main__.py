"""Evaluates a frozen backbone as the papers do.

  dino-jax evaluate PROTOCOL --checkpoint=WORKDIR_OR_FILE --data=PATH [options]

  dino-jax evaluate knn --checkpoint=runs/mine --data=/data/imagenet
  dino-jax evaluate knn --checkpoint=runs/quickstart --kind=digits

--checkpoint is the workdir of a run (its teacher) or a file of official weights.
`dino-jax evaluate PROTOCOL --help` shows the options, docs/evaluation.md the protocols.

The metrics and the settings are printed and written to WORKDIR/eval/STEP/PROTOCOL.json, or
to OUT/PROTOCOL.json with --out=OUT. On a pod, start the same command with --distributed on all
hosts. Ctrl-C and SIGTERM (exit codes 130 and 75) leave no file.
"""

import argparse
import sys
import typing
from collections.abc import Sequence

from dino_jax.commands.all_processes import told_to_all
from dino_jax.commands.command_line import CommandParser, docstring_of
from dino_jax.evaluation.options import (
    copy_detection,
    depth,
    finetune,
    knn,
    linear,
    logreg,
    retrieval,
    segmentation,
    video_segmentation,
)
from dino_jax.evaluation.options.groups import add_common_arguments


class Options(typing.Protocol):
    """A module of `dino_jax.evaluation.options`; its docstring is the help of the protocol."""

    __doc__: str | None
    __file__: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds the options that this protocol has besides the common ones."""
        ...


PROTOCOLS: dict[str, Options] = {
    "knn": knn,
    "linear": linear,
    "finetune": finetune,
    "logreg": logreg,
    "retrieval": retrieval,
    "copy_detection": copy_detection,
    "video_segmentation": video_segmentation,
    "segmentation": segmentation,
    "depth": depth,
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; help and wrong usage end the program."""
    parser = CommandParser("evaluate", __doc__ or docstring_of(__file__))
    protocols = parser.add_subparsers(dest="protocol", required=True, metavar="PROTOCOL")
    for name, protocol in PROTOCOLS.items():
        about = (protocol.__doc__ or docstring_of(protocol.__file__)).strip()
        one = protocols.add_parser(name, help=about.partition("\n")[0], description=about)
        add_common_arguments(one)
        protocol.add_arguments(one)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    with told_to_all(argv):
        arguments = parse(argv)
    from dino_jax.evaluation.evaluate import run  # jax, for a command line that is right

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
