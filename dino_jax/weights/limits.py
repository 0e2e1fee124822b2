"""What a model and this machine can take of images: checked before anything is computed.

Each check names the option that asks for too much.
"""

import jax

from dino_jax.devices.host_memory import memory_of_host
from dino_jax.weights.model import Model

SCORE_BYTES = 4  # of a float32
PICTURE_BYTES = 4e9  # of such scores behind a picture: 19,000 patches of 3 heads
COPIES = 8  # of them that a CPU holds at once, with room for everything else


def check_batch(batch_size: int, devices: int, option: str = "--batch-size") -> None:
    """Checks that the devices share a batch.

    Raises:
      ValueError: if their number does not divide it.
    """
    if batch_size % devices:
        raise ValueError(f"{option}={batch_size} must be a multiple of the {devices} devices")


def check_side(model: Model, side: int, option: str) -> None:
    """Checks that a square image has a patch, and that its attention fits into this machine.

    Args:
      model: the model.
      side: of the image in pixels.
      option: which asks for it, "--image-size".

    Raises:
      ValueError: if it is too small or too large.
    """
    patch_size = model.network.backbone.patch_size
    if side < patch_size:
        raise ValueError(f"{option}={side} is smaller than one patch of {patch_size} pixels")
    needed, there = attention_bytes(model, side, side), most_bytes()
    if needed > there:
        most = int(side * (there / needed) ** 0.25)
        raise ValueError(
            f"{option}={side}: the attention of one image takes {needed / 1e9:,.0f} GB, and this "
            f"machine has {there / 1e9:,.0f}; at most about {most // patch_size * patch_size} fit"
        )


def attention_bytes(model: Model, height: int, width: int) -> int:
    """Bytes of the scores of all heads of one block for one image; 0 for models without any."""
    backbone = model.network.backbone
    patches = (height // backbone.patch_size) * (width // backbone.patch_size)
    return (backbone.implicit.num_heads or 0) * patches**2 * SCORE_BYTES


def most_bytes() -> float:
    """The memory that such scores may take; TPUs and GPUs never hold them all."""
    return memory_of_host() if jax.default_backend() == "cpu" else float("inf")


def most_patches(model: Model) -> int:
    """Patches of an image in a picture: as many as `PICTURE_BYTES`, or the memory, can hold."""
    there = min(PICTURE_BYTES, most_bytes() / COPIES)
    return int((there / SCORE_BYTES / (model.network.backbone.implicit.num_heads or 1)) ** 0.5)
