"""The work of `dino-jax search remove`: rows that are not found any more; files stay."""

import argparse
from pathlib import Path

import numpy as np

from dino_jax.commands.command_line import run_command
from dino_jax.search.conditions import parse_condition
from dino_jax.search.index import Index
from dino_jax.search.writer import advice, writing


def remove(arguments: argparse.Namespace) -> str:
    """Removes rows by name or by filters; returns one line."""
    conditions = [parse_condition(text) for text in arguments.where]
    if bool(arguments.names) == bool(conditions):
        raise ValueError("which photos? Pass either their names or --where 'COLUMN=VALUE'")
    with writing(Path(arguments.index).expanduser()) as writer:
        index = Index(writer.folder, writer.manifest)
        numbers = [index.find(name) for name in arguments.names]
        if conditions:
            numbers = np.flatnonzero(index.allowed(conditions)).tolist()
        if numbers:
            writer.remove(numbers)
            writer.commit()
        left = len(index) - len(set(numbers))
        gone = f"{len(set(numbers)):,} photos removed, {left:,} left"
        return f"{writer.folder}: {gone}; their files were not touched{advice(writer)}"


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    return run_command(lambda: remove(arguments))
