"""A tuned backbone as a folder that is used like the workdir of a run."""

import dataclasses
from pathlib import Path
from typing import Any

from etils import epath

from dino_jax.data.view import View
from dino_jax.models.build import NetworkConfig, build_network, read_network_config
from dino_jax.tuning.moved import Params
from dino_jax.weights.exporting import open_trained
from dino_jax.weights.finished_run import read_run
from dino_jax.weights.importing import write_network
from dino_jax.weights.provenance import FORMAT, fingerprint
from dino_jax.weights.suffixes import SUFFIXES
from dino_jax.weights.weights_file import NetworkFromFile, read_network


def write_model(
    out: Path, backbone: Params, path: str, step: int | None, size: int, told: dict[str, Any]
) -> None:
    """Writes a backbone with the config, the license and the origin of the one that it was.

    Args:
      out: new or empty folder, but for what is not of a model.
      backbone: tuned parameters.
      path: of the model that was tuned.
      step: its checkpoint.
      size: side in pixels of the images that it was tuned on.
      told: what tuning.json says.
    """
    trained = open_trained(path, step)
    variables = {"params": {"backbone": backbone}}
    described, view = _describe_network(path)
    config = dataclasses.replace(described, heads={})
    gain = told["best"]["gain"]
    network = NetworkFromFile(
        config=dataclasses.asdict(config),
        network=build_network(config),
        variables=variables,
        centers={},
        licence=trained.licence,
        lines=[
            f"tuned by dino-jax tune from {trained.title}",
            f"gain in Recall@1 {gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]",
        ],
        view=view,
        size=size,
    )
    provenance = {
        "format": FORMAT,
        "files": {},
        "model": f"tuned from {trained.title}",
        "weights": fingerprint(variables),
        "license": trained.licence,
        **trained.origin,
        "tuned": {name: told[name] for name in ("source", "loss", "skus", "best")},
    }
    write_network(network, epath.Path(out), trained.title, provenance)


def _describe_network(path: str) -> tuple[NetworkConfig, View]:
    """The config of a network, and how images become squares for it."""
    if path.endswith(SUFFIXES):
        read = read_network(path, with_heads=False)
        return read_network_config({"network": read.config}), read.view
    run = read_run(path)
    return run.network, run.view
