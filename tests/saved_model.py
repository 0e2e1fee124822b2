"""Runs of no steps, to evaluate and embed with."""

from pathlib import Path
from typing import Any

import jax

from configs import quickstart
from dino_jax.step.recipe import build_recipe
from dino_jax.workdir import checkpointing
from dino_jax.workdir.config_json import config_to_json


def save_model(folder: Path, config: Any) -> Path:
    """A checkpoint of the first weights of a config."""
    config.network.heads.dino.update(out_dim=16, hidden_dim=8, bottleneck_dim=8)
    state = jax.jit(build_recipe(config, 1438).init)(jax.random.key(0))
    (folder / "config.json").write_text(config_to_json(config))
    checkpoints = checkpointing.open_checkpoints(folder, save_every_steps=1, keep=1)
    with checkpointing.closing(checkpoints):
        checkpointing.save(checkpoints, 0, state, force=True)
    return folder


def save_tiny_vit(folder: Path, width: int = 24, depth: int = 2) -> Path:
    """A ViT for 32 x 32 pixels."""
    config: Any = quickstart.get_config()
    config.network.backbone.update(embed_dim=width, depth=depth)
    return save_model(folder, config)
