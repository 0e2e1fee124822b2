"""DINO on scikit-learn's 1,797 handwritten digits: watch it learn in a few CPU minutes.

Paper: arXiv:2104.14294. A 0.36 M-parameter ViT sees digits of 32 x 32 pixels in patches of 8 x 8.
BatchNorm in the head: at this tiny budget a head without it collapses to the uniform solution (so
does the official code). Expected: weighted k-NN (k = 10) of the teacher from about 42 % (random)
to TODO; raw pixels reach 97 %, because digits are too easy for pixels.
Hardware and time: 2 CPU cores, TODO minutes.

Command:
  python -m dino_jax.train --config=configs/quickstart.py --workdir=runs/quickstart
"""

from ml_collections import ConfigDict

from configs import vits16_vanilla


def get_config() -> ConfigDict:
    config = vits16_vanilla.get_config()
    config.batch_size = 64
    config.steps_per_epoch = 50
    config.epochs = 16.0

    config.data = vits16_vanilla.images("digits", "train")
    for crop in config.augment.values():
        crop.update(flip=0.0, jitter=0.0, grayscale=0.0, solarize=0.0, blur_radius=(0.1, 0.5))
    for crop in (config.augment.global_1, config.augment.global_2):
        crop.update(size=(32, 32), scale=(0.6, 1.0))
    config.augment.local.update(count=2, size=(16, 16), scale=(0.3, 0.6))

    config.network.dtype = "float32"
    config.network.backbone.update(
        embed_dim=96, depth=3, num_heads=3, patch_size=8, image_size=(32, 32), drop_path_rate=0.0
    )
    config.network.heads.dino.update(
        out_dim=256, hidden_dim=256, bottleneck_dim=64, batch_norm=True
    )
    config.optimizer.update(
        lr=4e-3,  # x 64 / 256 = 1e-3
        warmup_epochs=1.0,
        weight_decay_end=0.04,
    )
    config.teacher.momentum = 0.99

    config.knn.update(
        every_epochs=2.0,
        train=vits16_vanilla.images("digits", "train"),
        test=vits16_vanilla.images("digits", "test"),
        image_size=32,
        batch_size=256,
        k=(10,),
        networks=("teacher", "student"),
        raw_pixels=True,
    )
    config.runtime.update(workers=0, save_every_steps=200)
    return config
