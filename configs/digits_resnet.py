"""DINO with a small ResNet on the quickstart's digits: the quickstart with another backbone.

Paper: DINO, arXiv:2104.14294; ResNet, arXiv:1512.03385. Views, head, batch and number of images are
those of the quickstart, to compare the backbones; BatchNorm statistics of student and teacher are
their own, as in the official code.
Expected: TODO
Hardware and time: TODO

Command:
  python -m dino_jax.train --config=configs/digits_resnet.py --workdir=runs/digits_resnet
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    config = quickstart.get_config()
    config.network.backbone = ConfigDict(
        dict(
            kind="resnet",
            size="50",  # 50 | 101
            depths=(1, 1, 1),  # blocks per stage; None: as `size`
            width=16,  # channels of the stem
            in_channels=3,
        )
    )
    return config
