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
from functools import partial

import jax

from dino_jax.commands.all_processes import told_to_all
from dino_jax.commands.arguments import STEP, filled
from dino_jax.commands.batch_command import run_batch_command
from dino_jax.commands.command_line import CommandParser, docstring_of
from dino_jax.evaluation.protocols import (
    copy_detection,
    depth,
    knn,
    linear,
    logreg,
    retrieval,
    segmentation,
    video_segmentation,
)
from dino_jax.evaluation.result import (
    Result,
    describe_result,
    find_step,
    result_folder,
    write_result,
)
from dino_jax.processes.agreement import Agreement, require_same
from dino_jax.weights.model import Model, load


class Protocol(typing.Protocol):
    """A module of `dino_jax.evaluation.protocols`; its docstring is its help."""

    __doc__: str | None
    __file__: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds the options that this protocol has besides the common ones."""
        ...

    def evaluate(self, model: Model, arguments: argparse.Namespace) -> Result:
        """Evaluates; all processes take part and get the same result.

        Raises:
          ValueError: if an option does not fit the weights or the images.
          OSError: if files can't be read or written.
        """
        ...


PROTOCOLS: dict[str, Protocol] = {
    "knn": knn,
    "linear": linear,
    "logreg": logreg,
    "retrieval": retrieval,
    "copy_detection": copy_detection,
    "video_segmentation": video_segmentation,
    "segmentation": segmentation,
    "depth": depth,
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; help and wrong usage end the program."""
    parser = CommandParser("evaluate", __doc__ or docstring_of(__file__))
    protocols = parser.add_subparsers(dest="protocol", required=True, metavar="PROTOCOL")
    for name, protocol in PROTOCOLS.items():
        about = (protocol.__doc__ or docstring_of(protocol.__file__)).strip()
        one = protocols.add_parser(name, help=about.partition("\n")[0], description=about)
        add = one.add_argument
        add(
            "--checkpoint",
            type=filled,
            required=True,
            help="workdir of a run, or file of official weights",
        )
        add("--data", default="", help="the images, in the layout that the protocol reads")
        add("--step", type=STEP, help="checkpoint of a workdir; default: the newest")
        add("--out", default="", help="folder for the result; default: WORKDIR/eval/STEP")
        add("--distributed", action="store_true", help="one of several processes, as on a pod")
        protocol.add_arguments(one)
    return parser.parse_args(argv)


def evaluate(arguments: argparse.Namespace, agreement: Agreement) -> str:
    """Loads, evaluates, writes; returns what to print, "" on processes other than 0.

    Raises:
      ValueError: if an option does not fit the weights or the images.
      OSError: if files can't be read or written.
    """
    name, checkpoint = arguments.protocol, arguments.checkpoint
    step = find_step(checkpoint, arguments.step)
    folder = result_folder(checkpoint, step, arguments.out)
    model = load(checkpoint, step)
    require_same(agreement, {"--checkpoint": model.title}, "All hosts need the same model.")
    result = PROTOCOLS[name].evaluate(model, arguments)
    if jax.process_index():
        return ""
    path = write_result(folder, name, model.title, result)
    return f"{describe_result(name, model.title, result)}\nwritten to {path}"


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    with told_to_all(argv):
        arguments = parse(argv)
    when_stopped = "nothing was written; the same command starts over"
    return run_batch_command(partial(evaluate, arguments), when_stopped, arguments)


if __name__ == "__main__":
    sys.exit(main())
