"""DINOv2 on the quickstart's digits: DINO, iBOT on masked patches, KoLeo and Sinkhorn-Knopp.

Paper: DINOv2, arXiv:2304.07193. A CPU smoke test of everything that DINOv2 adds, on the ViT and
the views of the quickstart; differs from it in what stands below. Patches of 4 x 4 pixels, because
16 patches are too few to mask blocks of them.
Expected: it runs and learns; nothing is tuned.
Hardware and time: 2 CPU cores; a patch is a quarter of the quickstart's, so about four times its
time per step.

Command:
  python -m dino_jax.train --config=configs/digits_dinov2.py --workdir=runs/digits_dinov2
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    config = quickstart.get_config()
    config.masking.update(probability=0.5, ratio=(0.1, 0.5), group_size=16)
    config.network.backbone.update(
        patch_size=4,
        registers=4,
        token_std=1e-6,
        layer_scale=1e-5,
        has_mask_token=True,
        position_kernel="antialiased",
        drop_path_rate=0.1,
        drop_path_schedule="uniform",
        drop_path_kind="subset",
        drop_path_group=32,  # 16 images x 2 views
    )
    ibot_head = ConfigDict(config.network.heads.dino.to_dict())
    config.network.heads.ibot = ibot_head

    config.objectives.dino.update(
        centering="sinkhorn", warmup_teacher_temperature_every="step", least_local_pairs=1
    )
    ibot = config.objectives.dino.to_dict()
    del ibot["least_local_pairs"]
    config.objectives.ibot = ConfigDict({**ibot, "head": "ibot"})
    config.objectives.koleo = ConfigDict(dict(weight=0.1, group_size=16))
    return config
