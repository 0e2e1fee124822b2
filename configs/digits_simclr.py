"""SimCLR with the quickstart's ViT on digits, in a few CPU minutes.

Paper: arXiv:2002.05709. Head and loss are SimCLR's; the network is a ViT in place of a ResNet, the
optimizer AdamW in place of LARS, and sizes fit. There is no teacher.
Expected: k-NN (k = 10) of the student 94.7 % after 200 of 600 steps (--config.epochs=12.0, one
seed); not run to its end yet.
Hardware and time: 2 CPU cores, less than the quickstart.

Command:
  dino-jax train --config=digits_simclr --workdir=runs/digits_simclr
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    config = quickstart.get_config()
    del config.augment.crops.local
    config.network.update(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))  # pixels stay in [0, 1]
    config.network.heads = ConfigDict(
        dict(
            projector=dict(
                kind="mlp", layers=2, hidden_dim=96, out_dim=64, last_norm="scale",
                first_kernels="normal",
            )
        )
    )  # fmt: skip
    config.objectives = ConfigDict(dict(simclr=dict(kind="simclr", temperature=0.2)))
    config.roles.student.update(sees=("global",), masked="no")
    del config.roles.teacher
    config.evaluated = "student"
    config.evaluations.knn.of = config.evaluations.proxies.of = ("student",)
    config.optimizer.update(
        min_lr=0.0, warmup_peak="after", clip_grad=0.0, freeze_last_layer_epochs=0.0
    )
    return config
