"""The work of `dino-jax search compact`: one segment, without removed rows."""

import argparse
from pathlib import Path

from dino_jax.commands.command_line import run_command
from dino_jax.search.writer import MANY_SEGMENTS, MUCH_REMOVED, writing


def compact(arguments: argparse.Namespace) -> str:
    """Writes the index again if that is worth it; returns one line."""
    with writing(Path(arguments.index).expanduser()) as writer:
        rows, segments = writer.manifest.rows, len(writer.manifest.segments)
        state = f"{writer.removed_share:.0%} of {rows:,} rows removed, {segments} segments"
        worth = writer.removed_share > MUCH_REMOVED or segments > MANY_SEGMENTS
        if not worth and not arguments.always:
            return (
                f"{writer.folder}: {state}; nothing to do up to {MUCH_REMOVED:.0%} and "
                f"{MANY_SEGMENTS} segments (--always does it all the same)"
            )
        writer.compact()
        return f"{writer.folder}: {state}; now {writer.manifest.rows:,} rows in one segment"


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    return run_command(lambda: compact(arguments))
