"""BYOL with the quickstart's ViT on digits, in a few CPU minutes.

Paper: arXiv:2006.07733. Heads, loss and average are BYOL's; the network is a ViT in place of a
ResNet, the optimizer AdamW in place of LARS, and sizes fit.
Expected: no figure yet.
Hardware and time: 2 CPU cores, about as long as the quickstart.

Command:
  dino-jax train --config=digits_byol --workdir=runs/digits_byol
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    config = quickstart.get_config()
    del config.augment.crops.local
    mlp = dict(kind="mlp", hidden_dim=256, out_dim=64, hidden_bias=True, first_kernels="truncated")
    config.network.heads = ConfigDict(
        dict(projector=dict(mlp, of="cls"), predictor=dict(mlp, of="projector"))
    )
    config.objectives = ConfigDict(dict(byol=dict(kind="byol")))
    config.roles.student.update(sees=("global",), masked="no")
    config.roles.teacher.update(leaves_out=("predictor",), momentum=0.99, momentum_end=1.0)
    config.evaluated = "student"
    config.evaluations.knn.of = config.evaluations.proxies.of = ("student", "teacher")
    config.optimizer.update(
        min_lr=0.0, warmup_peak="after", clip_grad=0.0, freeze_last_layer_epochs=0.0
    )
    return config
