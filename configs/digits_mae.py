"""MAE on the quickstart's digits: one network predicts the 12 patches that it does not see.

Paper: arXiv:2111.06377. The quickstart's ViT, batch and number of images, with a decoder of two
blocks; nothing is tuned.
Expected: k-NN (k = 10) of the student from 68.8 % (random initialisation) to 89.4 % (one seed; its
warm-up ended one step earlier).
Hardware and time: 2 CPU cores, less than the quickstart.

Command:
  dino-jax train --config=digits_mae --workdir=runs/digits_mae
"""

from ml_collections import ConfigDict

from configs import quickstart, vitb16_mae


def get_config() -> ConfigDict:
    config = quickstart.get_config()
    vitb16_mae.use_mae(config)
    config.masking.group_size = 16
    config.network.heads.decoder.update(
        grid=(4, 4), out_dim=192, embed_dim=64, depth=2, num_heads=4
    )
    return config
