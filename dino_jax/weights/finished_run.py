"""What the config.json of a run, of this version or an earlier one, says about its network."""

import dataclasses
from typing import Any, NamedTuple

from etils import epath

from dino_jax.config.section import section
from dino_jax.config.upgrade import upgrade
from dino_jax.data.decoding import Decoding, build_decoding
from dino_jax.data.sources import ImagesConfig
from dino_jax.data.view import View
from dino_jax.models.build import NetworkConfig, read_network_config
from dino_jax.workdir.checkpointing import DEFAULT_ROLE
from dino_jax.workdir.config_json import read_config_json
from dino_jax.workdir.layout import CONFIG_JSON
from dino_jax.workdir.paths import absolute_path

DEFAULT_IMAGE_SIZE = 224  # of `config.image_size`


class FinishedRun(NamedTuple):
    """A run whose evaluated network is used.

    Attributes:
      config: plain config in today's form; an import has a part of one.
      role: name of the evaluated role.
      network: section of its network, without the heads that the role leaves out.
      image_size: side in pixels at which images are evaluated.
      decoding: how its images become pixels.
      view: how they become squares.
    """

    config: dict[str, Any]
    role: str
    network: NetworkConfig
    image_size: int
    decoding: Decoding
    view: View


def read_run(workdir: epath.PathLike) -> FinishedRun:
    """Reads the config.json of a run or of an import.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it is damaged or comes from a later version.
    """
    plain = read_config_json(workdir)
    file = absolute_path(workdir) / CONFIG_JSON
    if plain is None:
        raise FileNotFoundError(f"{workdir} is not the workdir of a run: it has no {CONFIG_JSON}")
    try:
        config, network = upgrade(plain), read_network_config(plain)
        role = config.get("evaluated", DEFAULT_ROLE)
        image_size = int(config.get("image_size", DEFAULT_IMAGE_SIZE))
        data = section("config.data", config.get("data", {}), ImagesConfig)
        otherwise = Decoding(channels=len(network.mean))
        decoding = build_decoding("config.data", data, otherwise)
        view = section("config.view", config.get("view", {}), View)
        left_out = config.get("roles", {}).get(role, {}).get("leaves_out", ())
        heads = {name: head for name, head in network.heads.items() if name not in left_out}
    except (AttributeError, LookupError, ArithmeticError, TypeError, ValueError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{file} is not the config of a run of dino_jax: {why}") from error
    network = dataclasses.replace(network, heads=heads)
    return FinishedRun(config, role, network, image_size, decoding, view)
