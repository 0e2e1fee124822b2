"""The work of `dino-jax search serve`."""

import argparse
import secrets
import sys

from dino_jax.commands.command_line import run_command
from dino_jax.commands.signals import Stopped, stop_on_signals
from dino_jax.search.index import Index, open_index
from dino_jax.search.origin import open_models
from dino_jax.search.photos import Photos
from dino_jax.search.server import Server, is_loopback
from dino_jax.search.texts import TextEmbedder, find_reader


def open_server(arguments: argparse.Namespace) -> Server:
    """Opens the index, compiles the network and listens.

    Raises:
      ValueError: if others could reach the page and no token is asked for, among others.
      OSError: if the port is taken.
    """
    if not is_loopback(arguments.host) and not arguments.token:
        raise ValueError(
            f"--host={arguments.host} shows the page, and all photos, to whoever reaches this "
            "machine; pass --token=new, and give the link that is then printed to those who may"
        )
    from dino_jax.search.desk import Desk  # jax, for a command line that is right

    token = secrets.token_urlsafe(18) if arguments.token == "new" else arguments.token
    index = open_index(arguments.index, not arguments.unchecked, arguments.approximate)
    model, *others = open_models(index.manifest, arguments, index.folder)
    photos = Photos(arguments.photos or index.manifest.photos)
    texts, again = open_texts(index, arguments), arguments.rerank or 0
    desk = Desk(index, model, photos, arguments.max_pixels, others, texts, again)
    try:
        return Server(arguments.host, arguments.port, desk, token)
    except OSError as error:
        raise OSError(
            f"--host={arguments.host} --port={arguments.port} can't be used ({error}); another "
            "program may have it, take another --port"
        ) from error


def open_texts(index: Index, arguments: argparse.Namespace) -> TextEmbedder | None:
    """Loads the text tower of an index; None, and a line, where a page without words will do."""
    paths, manifest = (arguments.model, arguments.other), index.manifest
    if find_reader(manifest, paths, arguments.step) is None:
        return None
    try:
        return TextEmbedder(manifest, index.folder, paths, arguments.step, checked=False)
    except (OSError, ValueError) as error:
        print(f"no search by words: {error}", file=sys.stderr)
        return None


def serve(arguments: argparse.Namespace) -> str:
    """Serves until a signal comes."""
    with open_server(arguments) as server:
        print(f"ready: {server.link}   (Ctrl-C ends it)", flush=True)
        if not is_loopback(arguments.host):
            print("whoever has this link can search and see all photos; it is not encrypted")
        server.serve_forever()
    return ""


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    try:
        with stop_on_signals():
            return run_command(lambda: serve(arguments))
    except Stopped as stopped:
        return stopped.exit_code
