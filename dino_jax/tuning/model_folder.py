"""A backbone that learned as a folder that is used like the workdir of a run."""

import dataclasses
from typing import Any, NamedTuple

from etils import epath

from dino_jax.data.view import View
from dino_jax.models.build import NetworkConfig, build_network, read_network_config
from dino_jax.weights.exporting import open_trained
from dino_jax.weights.finished_run import read_run
from dino_jax.weights.importing import write_network
from dino_jax.weights.provenance import FORMAT, fingerprint
from dino_jax.weights.suffixes import SUFFIXES
from dino_jax.weights.torch_names import Variables
from dino_jax.weights.weights_file import NetworkFromFile, read_network


class Told(NamedTuple):
    """How a backbone came about.

    Attributes:
      how: "tuned" or "improved".
      command: that did it.
      lines: more lines for config.json.
      facts: for provenance.json.
    """

    how: str
    command: str
    lines: list[str]
    facts: dict[str, Any]


def write_model(
    out: epath.PathLike, variables: Variables, path: str, step: int | None, told: Told, size: int
) -> None:
    """Writes a backbone with the config, the license and the origin of the one that it was.

    Args:
      out: new or empty folder, but for what is not of a model.
      variables: of the backbone.
      path: of the model that it was made of.
      step: its checkpoint.
      told: how it was made.
      size: side in pixels of the images that it was trained on.
    """
    trained = open_trained(path, step)
    described, view = _describe_network(path)
    config = dataclasses.replace(described, heads={})
    network = NetworkFromFile(
        config=dataclasses.asdict(config),
        network=build_network(config),
        variables=variables,
        centers={},
        licence=trained.licence,
        lines=[f"{told.how} by {told.command} from {trained.title}", *told.lines],
        view=view,
        size=size,
    )
    provenance = {
        "format": FORMAT,
        "files": {},
        "model": f"{told.how} from {trained.title}",
        "weights": fingerprint(variables),
        "license": trained.licence,
        **trained.origin,
        **told.facts,
    }
    write_network(network, epath.Path(out), trained.title, provenance)


def _describe_network(path: str) -> tuple[NetworkConfig, View]:
    """The config of a network, and how images become squares for it."""
    if path.endswith(SUFFIXES):
        read = read_network(path, with_heads=False)
        return read_network_config({"network": read.config}), read.view
    run = read_run(path)
    return run.network, run.view
