"""The work of `dino-jax evaluate`: loads a model, evaluates it by a protocol, writes the result."""

import argparse
import importlib
import typing
from functools import partial

import jax

from dino_jax.commands.batch_command import run_batch_command
from dino_jax.evaluation import protocols
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
    """A module of `dino_jax.evaluation.protocols`."""

    def evaluate(self, model: Model, arguments: argparse.Namespace, agreement: Agreement) -> Result:
        """Evaluates; all processes take part, with the same images, and get the same result.

        Raises:
          ValueError: if an option does not fit the weights or the images.
          OSError: if files can't be read or written.
        """
        ...


def find_protocol(name: str) -> Protocol:
    """The module of a protocol, which has its name."""
    module: typing.Any = importlib.import_module(f"{protocols.__name__}.{name}")
    return module


def evaluate(arguments: argparse.Namespace, agreement: Agreement) -> str:
    """Loads, evaluates, writes; returns what to print, "" on processes other than 0.

    Raises:
      ValueError: if an option does not fit the weights or the images.
      OSError: if files can't be read or written.
    """
    name, checkpoint = arguments.protocol, arguments.checkpoint
    protocol = find_protocol(name)
    step = find_step(checkpoint, arguments.step)
    folder = result_folder(checkpoint, step, arguments.out)
    model = load(checkpoint, step, arguments.compute)
    require_same(agreement, {"--checkpoint": model.title}, "All hosts need the same model.")
    result = protocol.evaluate(model, arguments, agreement)
    if jax.process_index():
        return ""
    path = write_result(folder, name, model.title, result)
    return f"{describe_result(name, model.title, result)}\nwritten to {path}"


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    when_stopped = "nothing was written; the same command starts over"
    return run_batch_command(partial(evaluate, arguments), when_stopped, arguments)
