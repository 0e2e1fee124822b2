"""The crop that the tests of the input pipeline vary: the official local one, with solarization."""

from dino_jax.data.augment import CropConfig

OFFICIAL = CropConfig(
    group="local",
    count=1,
    size=(64, 64),
    scale=(0.05, 0.4),
    ratio=(3 / 4, 4 / 3),
    flip=0.5,
    jitter=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.2,
    hue=0.1,
    grayscale=0.2,
    blur=0.5,
    blur_radius=(0.1, 2.0),
    solarize=0.2,
    solarize_threshold=128,
)
