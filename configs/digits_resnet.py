"""DINO with a small ResNet on the quickstart's digits: the quickstart with another backbone.

Paper: DINO, arXiv:2104.14294; ResNet, arXiv:1512.03385. Views, head, batch and number of images are
those of the quickstart, to compare the backbones; BatchNorm statistics of student and teacher are
their own, as in the official code.
Expected: with 12 epochs (38,400 images, --config.epochs=12.0) k-NN (k = 10) of the teacher
from 94.1 to 96.0 % (mean of three seeds): on these images random convolutions are nearly enough.
Hardware and time: 2 CPU cores, about as long as the quickstart.

Command:
  dino-jax train --config=digits_resnet --workdir=runs/digits_resnet
"""

from ml_collections import ConfigDict

from configs import quickstart
from dino_jax.config.defaults import to_config_dict
from dino_jax.models import resnet


def get_config() -> ConfigDict:
    config = quickstart.get_config()
    config.network.backbone = to_config_dict(resnet.Config(depths=(1, 1, 1), width=16))
    return config
