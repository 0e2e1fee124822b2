"""The command dino-jax, also as python -m dino_jax: a table of what it can do."""

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import dino_jax
from dino_jax.commands.command_line import PROGRAM, fail
from dino_jax.commands.console import prepare_console


class Command(NamedTuple):
    """One command.

    Attributes:
      module: with `main(argv)`, which returns the exit code; imported when the command is used.
      about: the first line of its docstring and of its help.
    """

    module: str
    about: str


COMMANDS = {
    "train": Command(
        "dino_jax.train", "Trains a network; the same command on the same workdir resumes."
    ),
    "show": Command(
        "dino_jax.run.show_crops", "Draws what the network will see, to be looked at before a run."
    ),
    "config": Command(
        "dino_jax.run.show_config",
        "Prints a config: every option with its value and meaning, and what differs from the base.",
    ),
    "doctor": Command(
        "dino_jax.doctor.__main__",
        "Checks whether a training can start here, and says how to fix what is wrong.",
    ),
    "plan": Command(
        "dino_jax.plan.__main__",
        "Tells before renting what a run needs on TPU slices, and how fast it can be at most.",
    ),
    "report": Command(
        "dino_jax.report.__main__",
        "Writes a report: one offline HTML page about one run, or about several drawn over each "
        "other.",
    ),
    "evaluate": Command(
        "dino_jax.evaluation.__main__", "Evaluates a frozen backbone as the papers do."
    ),
    "embed": Command(
        "dino_jax.embedding.__main__",
        "Turns images into vectors, for search, clustering or a classifier of your own.",
    ),
    "search": Command(
        "dino_jax.search.__main__",
        "Searches a catalogue of photos: an index, exact answers, duplicates, measures, and a "
        "page.",
    ),
    "tune": Command(
        "dino_jax.tuning.__main__",
        "Tunes on photos of the same products, and hands out only what finds more than the frozen "
        "model.",
    ),
    "improve": Command(
        "dino_jax.tuning.improving.__main__",
        "Continues a model on a folder of photos, and hands out only what is better than it was.",
    ),
    "curate": Command(
        "dino_jax.curation.__main__",
        "Makes a training set of a crawl: removes near-copies, balances, finds what is like given "
        "images.",
    ),
    "visualize": Command(
        "dino_jax.visualize.__main__",
        "Draws what a backbone sees: attention, parts of objects, similar patches and images.",
    ),
    "import": Command(
        "dino_jax.weights.import_weights",
        "Imports weights of another code base into a folder that is used like the workdir of a "
        "run.",
    ),
    "export": Command(
        "dino_jax.weights.export_weights",
        "Exports a trained backbone: weights for another code base, or a program that runs alone.",
    ),
    "convert": Command(
        "dino_jax.commands.config_from_yaml",
        "Converts an official YAML of DINOv2 or DINOv3 into a config file.",
    ),
    "build": Command(
        "dino_jax.data.building.build", "Turns any source of images into ArrayRecord shards."
    ),
    "build-beam": Command(
        "dino_jax.data.building.build_beam",
        "Builds ArrayRecord shards with Apache Beam, for data that one machine can't read.",
    ),
}


def describe() -> str:
    """The help of the program."""
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "DINO, DINOv2 and DINOv3: self-supervised learning of vision features, in JAX.",
            "",
            f"usage: {PROGRAM} COMMAND [options]",
            "",
            *(f"  {name:{width}}  {command.about}" for name, command in COMMANDS.items()),
            "",
            f"{PROGRAM} COMMAND --help shows the options of a command, {PROGRAM} --version the",
            f"version. To begin: {PROGRAM} train --config=quickstart --workdir=runs/quickstart",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the command line names; returns the exit code."""
    prepare_console()
    name, *arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help", "help"):
        print(describe())
        return 0
    if name == "--version":
        print(f"{PROGRAM} {dino_jax.__version__}")
        return 0
    command = COMMANDS.get(name.replace("_", "-"))
    if command is None:
        from dino_jax.config.section import suggest  # needs NumPy, so only now

        fail(f"unknown command {name!r}; {suggest(name, COMMANDS)}")
    return importlib.import_module(command.module).main(arguments)


if __name__ == "__main__":
    sys.exit(main())
