"""A small network of the quickstart, and runs of it, to evaluate."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from PIL import Image

from configs import quickstart
from dino_jax.devices.sharding import make_mesh
from dino_jax.evaluation.online.base import Context
from dino_jax.evaluation.online.build import build_evaluations
from dino_jax.models.build import build_network


def small_config() -> Any:
    config = quickstart.get_config()
    config.network.backbone.update(embed_dim=24, depth=1, num_heads=3)
    config.network.heads.dino.update(out_dim=32, hidden_dim=16, bottleneck_dim=8)
    return config


def only(config: Any, name: str, **changes: Any) -> Any:
    """The config with one evaluation alone, with changes."""
    config.evaluations = {name: config.evaluations[name].to_dict()}
    config.evaluations[name].update(changes)
    return config


def make_context(config: Any, folder: Any = "/nowhere", frozen: str = "") -> Context:
    network = build_network(config.network)
    roles = ["student", "teacher", *([frozen] if frozen else [])]
    return Context(
        networks=dict.fromkeys(roles, network),
        frozen=frozenset([frozen] if frozen else []),
        evaluated="teacher",
        image_size=config.image_size,
        max_pixels=config.max_pixels,
        mesh=make_mesh(1),
        folder=epath.Path(folder),
    )


def build(config: Any, folder: Any = "/nowhere", frozen: str = "") -> Any:
    return build_evaluations(config, make_context(config, folder, frozen), steps_per_epoch=10)


def init_two(config: Any) -> list[Any]:
    init = jax.jit(partial(build_network(config.network).init, method="init_all"))
    images = np.zeros((1, 32, 32, 3), np.uint8)
    return [init(jax.random.key(seed), images) for seed in (0, 1)]


def write_images(folder: Path, names: list[str]) -> str:
    for index, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return str(folder)
