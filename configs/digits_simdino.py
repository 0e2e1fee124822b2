"""SimDINO on the quickstart's digits: cosines and a coding rate instead of prototypes.

Paper: arXiv:2502.10385. The quickstart's ViT, views, batch and number of images; nothing is tuned.
Expected: k-NN (k = 10) of the student from 42.6 % (random initialisation) to 57.9 % after 200 of
1200 steps; not run to its end yet.
Hardware and time: 2 CPU cores, about as long as the quickstart.

Command:
  dino-jax train --config=digits_simdino --workdir=runs/digits_simdino
"""

from ml_collections import ConfigDict

from configs import quickstart, vitb16_simdino


def get_config() -> ConfigDict:
    config = quickstart.get_config()
    vitb16_simdino.use_simdino(config, group_size=0)
    config.network.heads.dino.update(out_dim=64, hidden_dim=256, batch_norm=True)
    return config
