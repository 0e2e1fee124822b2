"""A trained backbone to use: from the workdir of a run, or from weights of another code base.

model = dino_jax.load("runs/quickstart")
features = model(["cat.jpg", "dog.jpg"])  # {"cls": [2, D], "patches": [2, N, D]}
attention = model.attention(["cat.jpg"])  # [1, heads, T, T]
"""

import argparse
import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from etils import epath
from PIL import Image

from dino_jax.commands.compilation_cache import keep_programs
from dino_jax.commands.source_arguments import given_decoding
from dino_jax.data.decode import MAX_PIXELS, read_image_file
from dino_jax.data.decoding import Decoding, build_decoding
from dino_jax.data.sources import ImagesConfig
from dino_jax.data.view import USUAL_VIEW, View
from dino_jax.foreign.numbers import (
    numbers_of_array,
    numbers_of_picture,
    orientation_of,
    turn_upright,
)
from dino_jax.models.arithmetic import suited_to, with_dtype
from dino_jax.models.backbone import Features
from dino_jax.models.build import DTYPES, build_network
from dino_jax.models.network import Network
from dino_jax.weights.finished_run import read_run
from dino_jax.weights.source import take_part
from dino_jax.weights.suffixes import SUFFIXES
from dino_jax.weights.torch_names import Variables
from dino_jax.weights.weights_file import BACKBONE, read_network
from dino_jax.workdir import checkpointing
from dino_jax.workdir.layout import CONFIG_JSON
from dino_jax.workdir.paths import absolute_path

ImageLike = str | epath.PathLike | Image.Image | np.ndarray


class Model:
    """A frozen backbone; methods take images and compile once per shape.

    Images are [B, H, W, C] uint8 of any size, or a list of paths, Pillow images or [H, W, C]
    arrays, of which `preprocess` makes a batch.

    Attributes:
      title: origin of the weights.
      network: the backbone, without heads.
      variables: its float32 variables.
      image_size: S, pixels that `preprocess` gives by default.
      decoding: how image files become pixels: as in training, but upright.
      view: how an image becomes a square.
    """

    def __init__(
        self,
        title: str,
        network: Network,
        variables: Variables,
        image_size: int,
        decoding: Decoding | None = None,
        view: View = USUAL_VIEW,
    ):
        self.title, self.variables = title, variables
        self.network = suited_to(network, jax.local_devices()[0])
        self.image_size, self.view = image_size, view
        otherwise = Decoding(channels=network.backbone.in_channels)
        self.decoding = dataclasses.replace(decoding or otherwise, orientation="apply")
        self._apply = jax.jit(partial(network.apply), static_argnames=("method", "layers", "layer"))

    def __call__(self, images: Any) -> Features:
        """Features after the final norm: {"cls": [B, D], "patches": [B, N, D], …}."""
        return self._apply(self.variables, self._batch(images))

    def intermediate(self, images: Any, layers: Sequence[int]) -> tuple[Features, ...]:
        """The same after each of the given blocks (negative: from the end)."""
        return self._apply(
            self.variables, self._batch(images), method="intermediate", layers=tuple(layers)
        )

    def attention(self, images: Any, layer: int = -1) -> jax.Array:
        """[B, heads, T, T] attention weights of one block; row 0 is the cls token."""
        return self._apply(self.variables, self._batch(images), method="attention", layer=layer)

    def preprocess(self, images: Sequence[ImageLike], size: int | None = None) -> np.ndarray:
        """The usual evaluation view of each image.

        Args:
          images: paths, Pillow images or [H, W, C] arrays.
          size: S, side of the result in pixels; None: `image_size`.

        Returns:
          [B, S, S, C] uint8.

        Raises:
          OSError: if a file does not exist.
          ValueError: if there are no images, or one is not an image.
        """
        if isinstance(images, str) or not len(images):
            raise ValueError(f"expected a list of at least one image, got {images!r}")
        side = self.image_size if size is None else size
        pixels = [_pixels(image, self.decoding) for image in images]
        return np.stack([self.view(image, side) for image in pixels])

    def _batch(self, images: Any) -> jax.Array | np.ndarray:
        if isinstance(images, (np.ndarray, jax.Array)):
            if images.ndim != 4:
                raise ValueError(
                    f"expected images [B, H, W, C], got an array of shape {images.shape}; put one "
                    "image into a list"
                )
            return images
        return self.preprocess(images)


def load(path: str | epath.PathLike, step: int | None = None, dtype: str = "") -> Model:
    """Loads a trained backbone.

    Args:
      path: workdir of a run (its teacher), folder of `dino-jax import`, or file
        of weights, as `weights_file.read_network` takes it. The sizes of a file are read off its
        tensors.
      step: checkpoint of a workdir; None: the newest.
      dtype: a key of `build.DTYPES` for the activations, as `config.network.dtype`; "": as the run
        was trained, float32 for files of weights.

    Raises:
      OSError: if there is no such workdir, checkpoint or file.
      ValueError: if it holds no known backbone, or the dtype is unknown.
    """
    if dtype not in ("", *DTYPES):
        raise ValueError(f"dtype is {dtype!r}; known: {sorted(DTYPES)}")
    keep_programs()
    if not str(path).endswith(SUFFIXES):
        return _load_run(absolute_path(path), step, dtype)
    if step is not None:
        raise ValueError(f"step ({step}) is for workdirs, not for the file {path}")
    read = read_network(path, with_heads=False)
    title, network = _computing_in(dtype, str(path), read.network)
    return Model(title, network, read.variables, read.image_size, view=read.view)


def _load_run(workdir: epath.Path, step: int | None, dtype: str) -> Model:
    file = workdir / CONFIG_JSON
    if not file.exists():
        raise FileNotFoundError(
            f"{workdir} is neither the workdir of a run (it has no {CONFIG_JSON}) nor a "
            f"file of weights ({', '.join(SUFFIXES)})"
        )
    run = read_run(workdir)
    network = build_network(dataclasses.replace(run.network, heads={}))
    variables, step = checkpointing.read_network(workdir, step)
    title, network = _computing_in(dtype, f"{run.role} of step {step} of {workdir}", network)
    part = take_part(variables, BACKBONE)
    return Model(title, network, part, run.image_size, run.decoding, run.view)


def _computing_in(dtype: str, title: str, network: Network) -> tuple[str, Network]:
    """The title of a model and its network, with the activations that were asked for, if any."""
    if not dtype:
        return title, network
    return f"{title}, computed in {dtype}", with_dtype(network, DTYPES[dtype])


def decoded_by(model: Model, arguments: argparse.Namespace) -> Model:
    """The model, whose images are decoded as a command line says, and else as it was trained.

    Args:
      model: loaded model; it is changed.
      arguments: with those of `add_decoding_arguments`.

    Raises:
      ValueError: if a range is unknown, or the network takes other channels.
    """
    images = ImagesConfig(**given_decoding(arguments))
    decoding = build_decoding("the command line", images, model.decoding)
    if decoding.channels != model.network.backbone.in_channels:
        raise ValueError(
            f"--channels={decoding.channels}: {model.title} takes images of "
            f"{model.network.backbone.in_channels} channels"
        )
    model.decoding = decoding
    return model


def _pixels(image: ImageLike, decoding: Decoding) -> np.ndarray:
    if isinstance(image, Image.Image):
        found = numbers_of_picture(image, b"", decoding.channels)
        turned = (
            turn_upright(found.values, orientation_of(image)) if decoding.upright else found.values
        )
        return decoding(found._replace(values=turned))
    if not isinstance(image, np.ndarray):
        return read_image_file(absolute_path(image), MAX_PIXELS, decoding)
    if image.ndim != 3 or image.dtype.kind not in "biuf":
        raise ValueError(f"expected [H, W, C] pixels, got {image.dtype} {image.shape}")
    return decoding(numbers_of_array(image))
