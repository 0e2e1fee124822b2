"""The official augmentation of one crop in plain Pillow: what `dino_jax.data` is compared with."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from dino_jax.data.augment import CropConfig, CropParameters

Resize = Callable[[Image.Image, tuple[int, int]], Image.Image]


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """As torchvision does; the order of the passes is Pillow's (13 chooses, before it is fixed)."""
    return image.resize(size, Image.Resampling.BICUBIC)


def resize_horizontally_first(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The order of the passes that Pillow has up to version 12."""
    return resize(resize(image, (size[0], image.height)), size)


def apply_crop(
    image: Image.Image, parameters: CropParameters, config: CropConfig, resize: Resize
) -> np.ndarray:
    """Crop, resize, flip, jitter, gray, blur, solarize.

    Returns:
      [height, width, 3] uint8.
    """
    crop = resize(image.crop(parameters.box), config.size[::-1])
    if parameters.flip:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return recolor(crop, parameters, config)


def recolor(crop: Image.Image, parameters: CropParameters, config: CropConfig) -> np.ndarray:
    """The operations after crop, resize and flip; [h, w, 3] uint8."""
    for operation, factor in parameters.jitter:
        crop = JITTER[operation](crop, factor)
    if parameters.grayscale:
        crop = crop.convert("L").convert("RGB")
    if parameters.blur_radius is not None:
        crop = crop.filter(ImageFilter.GaussianBlur(parameters.blur_radius))
    if parameters.solarize:
        crop = ImageOps.solarize(crop, config.solarize_threshold)
    return np.array(crop)


def _adjust_hue(image: Image.Image, factor: float) -> Image.Image:
    """Turns the uint8 hue of PIL's HSV by int(255 * factor), with wrap, as torchvision does."""
    shift = int(255 * factor)
    hue, saturation, value = image.convert("HSV").split()
    hue = hue.point([(level + shift) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


JITTER: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "brightness": lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    "contrast": lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    "saturation": lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    "hue": _adjust_hue,
}
