"""Sizes and length of a run that fit images and machine, each with its reason.

Pure rules for the config small_data, which uses them itself; `choose` needs no jax and opens no
image. Lengths inside the run (warm-ups, the teacher's memory) follow `epochs` in that config.
"""

import math
from typing import Any, NamedTuple

STEPS_PER_EPOCH = 100  # in small_data an epoch is 100 steps, whatever the data
GROUP = 16  # images of a group of masks and of KoLeo
GIB = 1 << 30


class Choice(NamedTuple):
    """One option of a config.

    Attributes:
      option: its name below "config.".
      value: what it becomes.
      reason: why, in words that can be printed after it.
    """

    option: str
    value: Any
    reason: str


class Shape(NamedTuple):
    """Crops and network for images of a size.

    Attributes:
      side: of a global crop, in pixels.
      local: side of a local crop, in pixels.
      patch: side of a patch, in pixels.
      dim: width of the tokens.
      depth: blocks.
      heads: attention heads.
      images_per_device: images of a batch that fit a device of 16 GiB, a guess from plans.
      rate: learning rate of a batch of 256; others get it times the root of their ratio.
      hidden: width of the head's hidden layers.
      bottleneck: width of its output before the prototypes.
      locals: local crops of an image.
    """

    side: int
    local: int
    patch: int
    dim: int
    depth: int
    heads: int
    images_per_device: int
    rate: float
    hidden: int
    bottleneck: int
    locals: int


# A CPU gets the network of the study (docs/small_data.md); accelerators DeiT's tiny and small.
ON_CPU = (
    Shape(32, 16, 8, 96, 3, 3, 64, 2e-3, 256, 64, 2),
    Shape(64, 32, 8, 96, 3, 3, 64, 2e-3, 256, 64, 2),
)
ON_ACCELERATORS = (
    Shape(32, 16, 8, 192, 12, 3, 512, 1e-3, 1024, 128, 4),
    Shape(64, 32, 8, 192, 12, 3, 256, 1e-3, 1024, 128, 4),
    Shape(128, 64, 16, 384, 12, 6, 128, 5e-4, 2048, 256, 6),
    Shape(224, 96, 16, 384, 12, 6, 64, 5e-4, 2048, 256, 8),
)
LEAST_BATCH, MOST_BATCH = 64, 512
SHARE = 8  # a batch is at most an eighth of the images, but for the least batch
# Passes over the images, and steps that bound them.
CPU_PASSES, CPU_STEPS = 50, (1_200, 20_000)
PASSES, STEPS = 300, (5_000, 20_000)


def choose(
    images: int,
    median_side: float,
    *,
    accelerator: bool,
    devices: int = 1,
    memory: float = 16.0 * GIB,
) -> tuple[Choice, ...]:
    """Options of the config small_data for a set of images and a machine.

    Args:
      images: number of training images.
      median_side: median of their shorter sides, in pixels.
      accelerator: whether there are GPUs or TPUs.
      devices: number of devices that share a batch; 1 for a CPU.
      memory: bytes of one device.

    Returns:
      Options in the order in which they are best read; set all of them.

    Raises:
      ValueError: if a number is not positive, or there are fewer images than the smallest batch.
    """
    for name, value in dict(median_side=median_side, devices=devices, memory=memory).items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    if images < LEAST_BATCH:
        raise ValueError(
            f"{images} images are fewer than a batch of {LEAST_BATCH}; self-supervised training "
            "needs at least a few hundred, continue from released weights instead"
        )
    shape = fit_shape(median_side, accelerator)
    batch = fit_batch(images, shape, devices if accelerator else 1, memory)
    steps = count_steps(images, batch, accelerator)
    return (
        *_sizes(shape, median_side, accelerator),
        *_network(shape, accelerator),
        *_batch(images, batch, shape, devices if accelerator else 1),
        *_length(images, batch, steps, accelerator),
    )


def fit_shape(median_side: float, accelerator: bool) -> Shape:
    """The smallest shape that keeps three quarters of the median side, else the largest one."""
    shapes = ON_ACCELERATORS if accelerator else ON_CPU
    return next((one for one in shapes if one.side >= 0.75 * median_side), shapes[-1])


def fit_batch(images: int, shape: Shape, devices: int, memory: float) -> int:
    """What fits the devices, at most 512 and an eighth of the images, but at least 64.

    Devices and groups divide it: it is a power of two times their least common multiple.
    """
    unit = math.lcm(GROUP, devices)
    fits = shape.images_per_device * devices * memory / (16 * GIB)
    most = max(min(fits, MOST_BATCH, images / SHARE), LEAST_BATCH)
    return unit << max(int(most // unit).bit_length() - 1, 0)


def count_steps(images: int, batch: int, accelerator: bool) -> int:
    """Updates of the run, in whole epochs."""
    passes, (least, most) = (PASSES, STEPS) if accelerator else (CPU_PASSES, CPU_STEPS)
    steps = min(max(passes * images / batch, least), most)
    return STEPS_PER_EPOCH * round(steps / STEPS_PER_EPOCH)


def _sizes(shape: Shape, median_side: float, accelerator: bool) -> list[Choice]:
    side, local = (shape.side, shape.side), (shape.local, shape.local)
    seen = f"half of the images have a shorter side of {median_side:.0f} pixels or less"
    if not accelerator and median_side > 4 / 3 * shape.side:
        seen += ", and a CPU is too slow for more"
    blur = (0.1, max(0.5, round(2.0 * shape.side / 224, 2)))
    crops = "augment.crops"
    return [
        Choice(f"{crops}.global_1.size", side, seen),
        Choice(f"{crops}.global_2.size", side, "as global_1"),
        Choice(f"{crops}.local.size", local, "about half of a global crop, in whole patches"),
        *(
            Choice(f"{crops}.{name}.blur_radius", blur, "0.1 to 2 pixels at 224, smaller with it")
            for name in ("global_1", "global_2", "local")
        ),
        Choice("image_size", shape.side, "evaluations see what global crops see"),
        Choice("network.backbone.image_size", side, "as global_1"),
        Choice(f"{crops}.local.count", shape.locals, "fewer for a CPU and for few pixels"),
    ]


def _network(shape: Shape, accelerator: bool) -> list[Choice]:
    patches = (shape.side // shape.patch) ** 2
    machine = "for this many pixels and images" if accelerator else "for a CPU"
    backbone, head = "network.backbone", "network.heads.dino"
    return [
        Choice(f"{backbone}.patch_size", shape.patch, f"{patches} patches of a global crop"),
        Choice(f"{backbone}.embed_dim", shape.dim, f"a network {machine}"),
        Choice(f"{backbone}.depth", shape.depth, "with it"),
        Choice(f"{backbone}.num_heads", shape.heads, "with it"),
        Choice(f"{head}.hidden_dim", shape.hidden, "with it"),
        Choice(f"{head}.bottleneck_dim", shape.bottleneck, "with it"),
        Choice("optimizer.lr", shape.rate, "with it, for a batch of 256"),
    ]


def _batch(images: int, batch: int, shape: Shape, devices: int) -> list[Choice]:
    limits = f"{devices} device{'s' if devices > 1 else ''} of {shape.images_per_device} images"
    reason = f"at most an eighth of {images:,} images, {MOST_BATCH}, and what fits {limits}"
    return [Choice("batch_size", batch, f"{reason}; at least {LEAST_BATCH}")]


def _length(images: int, batch: int, steps: int, accelerator: bool) -> list[Choice]:
    passes, (least, most) = (PASSES, STEPS) if accelerator else (CPU_PASSES, CPU_STEPS)
    reason = (
        f"{steps:,} steps, {steps * batch / images:,.0f} passes over the images: {passes} passes, "
        f"but {least:,} to {most:,} steps"
    )
    return [Choice("epochs", steps / STEPS_PER_EPOCH, reason)]
