"""DINO ViT-S/16 on ImageNet-1k, the vanilla run of the official README; the base of all configs.

Paper: Emerging Properties in Self-Supervised Vision Transformers, arXiv:2104.14294. All values are
the defaults of the official main_dino.py, but for bfloat16 activations where the official run used
float16: crops 2 x 224 and 8 x 96, 65,536 prototypes, AdamW at 5e-4 x batch / 256 with 10 epochs of
warm-up, weight decay 0.04 to 0.4, teacher momentum 0.996 to 1, teacher temperature 0.04.
They are the defaults of dino_jax too: `dino-jax config vits16_vanilla` prints every option
with its value and meaning, and for another config marks what differs from this one.
Expected (official README): 69.3 % k-NN, 74.0 % linear after 100 epochs at batch 512.
Hardware and time: officially 8 V100, 1.75 days. Not yet run here on a TPU.

Command:
  dino-jax train --config=vits16_vanilla --workdir=runs/vits16_vanilla \
    --config.data.path=/data/imagenet/train \
    --config.evaluations.knn.train.path=/data/imagenet/train \
    --config.evaluations.knn.test.path=/data/imagenet/val
"""

from ml_collections import ConfigDict

from dino_jax.config.defaults import to_config_dict
from dino_jax.data.sources import ImagesConfig
from dino_jax.run.whole_config import default_config


def images(kind: str, split: str) -> ConfigDict:
    """A section that says where images come from, see `dino_jax.data.sources`."""
    return to_config_dict(ImagesConfig(kind=kind, split=split))


def get_config() -> ConfigDict:
    return default_config()
