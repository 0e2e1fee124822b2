"""`dino-jax train PHOTOS`: the config small_data with sizes that fit photos and machine."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import jax
import numpy as np

from dino_jax.commands.command_line import UsageError, user_errors
from dino_jax.commands.config_file import shipped_configs
from dino_jax.commands.jax_switches import ignore_switches
from dino_jax.config.range import MAX_PIXELS
from dino_jax.data.decode import UnreadableImageError
from dino_jax.data.reading import read_image
from dino_jax.data.sources import FolderSource
from dino_jax.devices.host_memory import keep_freed_memory
from dino_jax.foreign.pictures import opened_picture
from dino_jax.run.sensible import GIB, Choice, choose
from dino_jax.workdir.config_json import read_config_json
from dino_jax.workdir.dotted_names import flatten

CONFIG = "small_data"
MEASURED = 200  # images whose sides are measured, evenly spaced


def complete_arguments(photos: str, rest: Sequence[str]) -> list[str]:
    """The command line that `dino-jax train PHOTOS …` stands for; prints what it chose and why.

    With --config, PHOTOS are its images and nothing is chosen. Without --workdir the run goes to
    runs/NAME, after the folder. A workdir that has a config.json keeps what was chosen first, also
    on another machine. Options that are given win over choices.

    Args:
      photos: path of a folder of images.
      rest: the other arguments.

    Raises:
      UsageError: if there are several processes, no such folder, or too few images.
    """
    data = ["--config.data.kind=folder", f"--config.data.path={photos}"]
    if _value("config", rest):
        return [*data, *rest]
    if _value("distributed", rest) is not None:
        raise UsageError(
            "sizes are chosen for one process; on a pod give a config, such as "
            f"--config=vitl16_short --config.data.path={photos}"
        )
    workdir = _value("workdir", rest)
    if not workdir:
        workdir = f"runs/{PurePosixPath(photos.rstrip('/')).name or 'photos'}"
        rest = [*rest, f"--workdir={workdir}"]
    with user_errors():
        choices = _choose(photos, workdir)
    print(f"config      {CONFIG}, for {photos}, in {workdir}")
    for one in choices:
        print(f"chosen      {one.option}={one.value}: {one.reason}")
    print("            --config.NAME=VALUE changes any of them, --config=NAME takes another config")
    found = [f"--config.{one.option}={one.value}" for one in choices]
    return [f"--config={CONFIG}", *data, *found, *rest]


def _choose(photos: str, workdir: str) -> tuple[Choice, ...]:
    ignore_switches()
    keep_freed_memory()  # before jax starts its threads
    try:
        source = FolderSource(photos)
    except FileNotFoundError as error:
        if photos in shipped_configs():
            raise UsageError(f"{photos} is a config: give it as --config={photos}") from error
        raise
    device = jax.devices()[0]
    side, unreadable = median_side(source)
    if unreadable:
        print(f"photos      {unreadable} of {min(MEASURED, len(source))} looked at cannot be read")
    choices = choose(
        len(source),
        side,
        accelerator=device.platform != "cpu",
        devices=jax.device_count(),
        memory=float((device.memory_stats() or {}).get("bytes_limit", 16 * GIB)),
    )
    existing = read_config_json(workdir)
    return choices if existing is None else _as_before(choices, flatten(existing))


def _as_before(choices: Sequence[Choice], existing: Mapping[str, Any]) -> tuple[Choice, ...]:
    """The choices with the values of a run that has begun."""
    known = [one for one in choices if one.option in existing]
    return tuple(
        Choice(one.option, _plain(existing[one.option]), "as this run began") for one in known
    )


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def median_side(source: FolderSource, most: int = MEASURED) -> tuple[float, int]:
    """Median of the shorter sides of evenly spaced images, in pixels, and how many are unreadable.

    Args:
      source: the images.
      most: images that are looked at; of pictures the header alone.

    Raises:
      ValueError: if none of them can be read.
    """
    sides, reason = [], ""
    indices = np.unique(np.linspace(0, len(source) - 1, min(most, len(source))).astype(int))
    for index in indices.tolist():
        try:
            sides.append(_shorter_side(source, index))
        except (OSError, UnreadableImageError) as error:
            reason = str(error)
    if not sides:
        raise ValueError(f"none of {len(indices)} images can be read; the last reason: {reason}")
    return float(np.median(sides)), len(indices) - len(sides)


def _shorter_side(source: FolderSource, index: int) -> int:
    stored = source[index]["image"]
    if isinstance(stored, bytes):
        try:
            with opened_picture(stored, MAX_PIXELS) as picture:
                return min(picture.size)
        except UnreadableImageError:  # no picture of Pillow's, but perhaps an array
            pass
    pixels, _, _ = read_image(source, index, MAX_PIXELS)
    return min(pixels.shape[:2])


def _value(name: str, argv: Sequence[str]) -> str | None:
    """The last value of an option, "" for one without; None if it is not there."""
    found = None
    for index, argument in enumerate(argv):
        following = next(iter(argv[index + 1 :]), "-")
        given, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and given == name:
            found = value if equals else "" if following.startswith("-") else following
    return found
