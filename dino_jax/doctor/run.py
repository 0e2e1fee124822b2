"""Checks of a run: its workdir, its config on these devices, its images, the speed of its input."""

import contextlib
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import jax
import numpy as np

from dino_jax.data.decode import UnreadableImageError
from dino_jax.data.multi_crop import build_multi_crop
from dino_jax.data.pipeline import build_train_stream
from dino_jax.data.reading import read_image
from dino_jax.data.sources import ImageSource
from dino_jax.devices.sharding import make_mesh
from dino_jax.doctor.result import Result
from dino_jax.run.check import check_config
from dino_jax.run.roll_back import read_guard
from dino_jax.run.whole_config import Config, in_todays_form, to_plain
from dino_jax.step.recipe import Recipe
from dino_jax.workdir.config_json import check_same_config
from dino_jax.workdir.paths import absolute_path, is_remote, make_writable

FEW_STEPS, GOOD_STEPS = 2, 16  # of an epoch: fewer than these are a warning, so many are fine
RESERVE = 1.2  # the input should deliver this many times what is needed


def check_workdir(workdir: str) -> Result:
    """Makes the folder and writes a file there, as a run does."""
    if is_remote(workdir) and find_spec("gcsfs") is None:
        text = f"{workdir} needs the package gcsfs"
        return Result("workdir", "FAIL", text, "pip install -e '.[gcs]'")
    try:
        make_writable(absolute_path(workdir))
    except OSError as error:
        return Result("workdir", "FAIL", str(error), "another --workdir, or the right to write it")
    return Result("workdir", "OK", f"{absolute_path(workdir)} can be written")


def examine_config(config: Config, images: int, workdir: str = "") -> Result:
    """Checks a config as training does.

    Args:
      config: config of the run.
      images: number of training images.
      workdir: workdir of the run; "": a new one.
    """
    try:
        mesh = make_mesh(config.runtime.fsdp)
        checked = check_config(config, images, mesh, workdir)
        if workdir:
            check_same_config(workdir, to_plain(checked.config), in_todays_form)
            read_guard(absolute_path(workdir))
    except (ValueError, OSError) as error:
        return Result("config", "FAIL", str(error), "change the config or the override named here")
    text = (
        f"{checked.recipe.total_steps:,} steps of {config.batch_size} images, "
        f"{config.batch_size // mesh.size} per device"
    )
    if images >= FEW_STEPS * config.batch_size:
        return Result("config", "OK", text)
    epoch = f"an epoch of {images:,} images is {images // config.batch_size} step(s)"
    better = better_batch(images, mesh.size)
    fix = f"--config.batch_size={better} gives {images // better} updates per epoch"
    return Result("config", "WARN", f"{text}; {epoch}, which is few updates", fix)


def better_batch(images: int, devices: int) -> int:
    """A batch with which an epoch has at least `GOOD_STEPS` steps, if the devices leave one.

    Args:
      images: number of training images.
      devices: number of devices, which divide it.
    """
    power = 1 << max(0, (images // GOOD_STEPS).bit_length() - 1)
    return max(power // devices, 1) * devices


def check_data(source: ImageSource, max_pixels: int, samples: int = 8) -> Result:
    """Reads and decodes some images, evenly spaced.

    Args:
      source: the images.
      max_pixels: larger images count as unreadable.
      samples: largest number to read.
    """
    indices = np.unique(np.linspace(0, len(source) - 1, min(samples, len(source))).astype(int))
    errors = []
    for index in indices.tolist():
        try:
            read_image(source, index, max_pixels)
        except UnreadableImageError as error:
            errors.append(str(error))
    text = f"{len(source):,} images, {len(indices) - len(errors)} of {len(indices)} tried are fine"
    if not errors:
        return Result("data", "OK", text)
    text = "\n".join([text, *errors])
    if len(errors) < len(indices):
        return Result(
            "data",
            "WARN",
            text,
            "dino-jax build names all unreadable images",
        )
    return Result("data", "FAIL", text, "are these images, and may this user read them?")


def measure_rate(
    batches: Iterator[Any],
    images: int,
    warm_up: int,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> float:
    """Images per second of a stream.

    Args:
      batches: the stream, endless.
      images: images per batch.
      warm_up: number of batches before the clock starts.
      seconds: how long to measure; at least one batch.
      clock: returns seconds.
    """
    for _ in range(warm_up):
        next(batches)
    start, count = clock(), 0
    while True:
        next(batches)
        count += 1
        elapsed = clock() - start
        if elapsed >= seconds:
            return count * images / elapsed


def measure_input(source: ImageSource, recipe: Recipe, config: Any, seconds: float) -> float:
    """Images per second that this host's input delivers when nothing else runs."""
    hosts, runtime = jax.process_count(), config.runtime
    stream = build_train_stream(
        source,
        build_multi_crop(config.augment, recipe.crop_shape[2]),
        seed=config.seed,
        batch_size=config.batch_size,
        start_step=0,
        host=jax.process_index(),
        hosts=hosts,
        workers=runtime.workers,
        threads=runtime.threads,
        max_pixels=config.max_pixels,
        masking=recipe.masking,
    )
    with contextlib.closing(stream):
        # Every worker may have a batch ready when the first one arrives.
        return measure_rate(stream, config.batch_size // hosts, runtime.workers + 1, seconds)


def check_input(rate: float, need: float, hosts: int) -> Result:
    """The measured speed against the planned one.

    Args:
      rate: images/s of this host's input alone.
      need: images/s that all devices together will take; 0 if unknown.
      hosts: number of hosts that share the work.
    """
    text = f"{rate:,.0f} images/s on this host"
    if not need:
        return Result("input", "OK", f"{text}; --need=IMAGES_PER_SECOND compares")
    share = need / hosts
    text += f", {share:,.0f} needed ({need:,.0f} for {hosts} host(s))"
    fix = (
        "more --config.runtime.workers (up to the cores), --config.augment.backend=device, "
        "arrayrecord data in the same region, smaller files"
    )
    if rate < share:
        return Result("input", "FAIL", text + ": the devices will wait", fix)
    if rate < RESERVE * share:
        return Result("input", "WARN", text + ": not much reserve", fix)
    return Result("input", "OK", text)
