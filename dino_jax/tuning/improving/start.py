"""The model that an improvement starts from, as far as its files say without reading weights."""

from typing import Any, NamedTuple

from etils import epath

from dino_jax.data.decoding import Decoding
from dino_jax.models.build import NetworkConfig, build_network, read_network_config
from dino_jax.run.whole_config import Config, read_plain
from dino_jax.weights.finished_run import read_run
from dino_jax.weights.suffixes import SUFFIXES
from dino_jax.weights.weights_file import read_network
from dino_jax.workdir import checkpointing
from dino_jax.workdir.config_json import read_config_json
from dino_jax.workdir.paths import absolute_path

CONTINUED = {"dino", "ibot", "koleo"}  # objectives whose heads and crops are taken over


class Start(NamedTuple):
    """A model to continue.

    Attributes:
      path: where it is, absolute if local.
      step: its checkpoint; None for a file.
      network: section of its network, with the heads that it has if `run` is given.
      image_size: side in pixels at which it is used.
      decoding: how its images become pixels.
      run: config of the run that made it, if that is one to go on with; else None.
    """

    path: str
    step: int | None
    network: NetworkConfig
    image_size: int
    decoding: Decoding
    run: Config | None

    @property
    def width(self) -> int:
        """D, width of its features."""
        return build_network(self.network).backbone.embed_dim


def read_start(path: str, step: int | None) -> Start:
    """Reads what a model is.

    Raises:
      OSError: if there is no such model or checkpoint.
      ValueError: if it is damaged or unknown, or a file is given with a step.
    """
    if path.endswith(SUFFIXES):
        return _read_file(path, step)
    place = absolute_path(path)
    run = read_run(place)
    steps = checkpointing.checkpoint_steps(place)
    if not steps or step not in (None, *steps):
        raise FileNotFoundError(
            f"{path} has no checkpoint{'' if step is None else f' {step}'}; steps found: "
            f"{sorted(steps)}"
        )
    chosen = max(steps) if step is None else step
    known = _config_to_continue(read_config_json(place) or {})
    network = known.network if known else run.network
    return Start(str(place), chosen, network, run.image_size, run.decoding, known)


def _read_file(path: str, step: int | None) -> Start:
    if step is not None:
        raise ValueError(f"--step={step} is for workdirs, not for the file {path}")
    place: epath.Path = absolute_path(path)
    read = read_network(place, with_heads=False)
    network = read_network_config({"network": read.config})
    decoding = Decoding(channels=len(network.mean))
    return Start(str(place), None, network, read.image_size, decoding, None)


def _config_to_continue(plain: dict[str, Any]) -> Config | None:
    """The config of a run of DINO or DINOv2; None for other methods and imports."""
    if "imported" in plain or "objectives" not in plain:
        return None
    config, _ = read_plain(plain)
    kinds = {objective.kind for objective in config.objectives.values()}
    follows = {name: role.follow for name, role in config.roles.items()}
    is_ours = kinds <= CONTINUED and follows == {"student": "learns", "teacher": "averages"}
    return config if is_ours and config.evaluated == "teacher" else None
