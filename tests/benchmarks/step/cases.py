"""What is measured: configs of dino_jax, changed for a benchmark."""

import importlib
from typing import Any, NamedTuple

from dino_jax.run.whole_config import Config, read_config

IMAGES = 1_281_167  # of ImageNet-1k
SAME_IN_BOTH = {  # what the plain PyTorch step does not do
    "network.backbone.drop_path_rate": 0.0,
    "optimizer.freeze_last_layer_epochs": 0.0,
    "optimizer.warmup_epochs": 0.0,
}


class Case(NamedTuple):
    """A train step on one core.

    Attributes:
      title: for the table.
      changes: of configs/vits16_vanilla.py.
      goal: CPU time of PyTorch over ours that the project promises.
    """

    title: str
    changes: dict[str, Any]
    goal: float


CPU_CASES = {
    "ti16": Case(
        "ViT-Ti/16, 224 and 96 px, batch 4, K 4096",
        {"network.backbone.size": "tiny", "batch_size": 4, "network.heads.dino.out_dim": 4096},
        1.3,
    ),
    "s16": Case(
        "ViT-S/16, 224 and 96 px, batch 2, K 65,536",
        {"network.backbone.size": "small", "batch_size": 2, "network.heads.dino.out_dim": 65536},
        1.5,
    ),
    "ti4": Case(
        "ViT-Ti/4, 32 and 16 px, batch 16, K 1024",
        {
            **{"network.backbone.size": "tiny", "batch_size": 16},
            **{"network.heads.dino.out_dim": 1024, "network.backbone.patch_size": 4},
            "network.backbone.image_size": (32, 32),
            **{f"augment.crops.global_{i}.size": (32, 32) for i in (1, 2)},
            "augment.crops.local.size": (16, 16),
        },
        1.3,
    ),
}


def cpu_config(case: Case, options: dict[str, Any]) -> Config:
    """The config of a case in float32, with further options."""
    config = importlib.import_module("configs.vits16_vanilla").get_config()
    config.update_from_flattened_dict(
        {"network.dtype": "float32", **SAME_IN_BOTH, **case.changes, **options}
    )
    return read_config(config)
