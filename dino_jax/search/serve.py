"""The work of `dino-jax search serve`."""

import argparse
import secrets

from dino_jax.commands.command_line import run_command
from dino_jax.commands.signals import Stopped, stop_on_signals
from dino_jax.search.index import open_index
from dino_jax.search.origin import open_model
from dino_jax.search.photos import Photos
from dino_jax.search.server import Server, is_loopback


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
    model = open_model(index.manifest, arguments.model, arguments.step, index.folder)
    photos = Photos(arguments.photos or index.manifest.photos)
    desk = Desk(index, model, photos, arguments.max_pixels)
    try:
        return Server(arguments.host, arguments.port, desk, token)
    except OSError as error:
        raise OSError(
            f"--host={arguments.host} --port={arguments.port} can't be used ({error}); another "
            "program may have it, take another --port"
        ) from error


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
