"""MoCo v3 with the quickstart's ViT on digits, in a few CPU minutes.

Paper: arXiv:2104.02057. Heads, loss, frozen patch projection, positions and order of the average
are MoCo v3's; sizes, rate and momentum fit the small network and batch.
Expected: k-NN (k = 10) of the student from 69.4 % (random initialization) to 87.7 % after 200 of
600 steps (--config.epochs=12.0, one seed); not run to its end yet.
Hardware and time: 2 CPU cores, about as long as the quickstart.

Command:
  dino-jax train --config=digits_mocov3 --workdir=runs/digits_mocov3
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    config = quickstart.get_config()
    del config.augment.crops.local
    config.network.backbone.update(
        position="rows_first", first_kernels="xavier_split", token_std=1e-6
    )
    mlp = dict(kind="mlp", hidden_dim=256, out_dim=64, last_norm="plain")
    config.network.heads = ConfigDict(
        dict(
            projector=dict(mlp, of="cls", layers=3),
            predictor=dict(mlp, of="projector", layers=2),
        )
    )
    config.objectives = ConfigDict(dict(mocov3=dict(kind="mocov3", temperature=0.2)))
    config.roles.student.update(sees=("global",), masked="no")
    config.roles.teacher.update(
        leaves_out=("predictor",), momentum=0.99, momentum_end=1.0, momentum_delay=1
    )
    config.evaluated = "student"
    config.evaluations.knn.of = config.evaluations.proxies.of = ("student", "teacher")
    config.optimizer.update(
        min_lr=0.0,
        warmup_peak="after",
        weight_decay=0.1,
        weight_decay_end=0.1,
        decayed="all",
        clip_grad=0.0,
        freeze_last_layer_epochs=0.0,
        fixed=("patch_embed", "pos_embed"),
    )
    return config
