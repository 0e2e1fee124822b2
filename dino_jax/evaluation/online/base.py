"""Shared parts of the kinds of evaluation."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
from etils import epath
from jax.sharding import Mesh

from dino_jax.config.range import MOST_EPOCHS, MOST_IMAGES, MOST_SIDE
from dino_jax.config.section import option, suggest
from dino_jax.data.decoding import RGB, Decoding
from dino_jax.data.pipeline import Batch, build_eval_stream
from dino_jax.data.sources import ImagesConfig, ImageSource, build_source, resolve_decoding
from dino_jax.evaluation.features import (
    Extract,
    LabeledFeatures,
    Take,
    cls_token,
    extract_features,
    make_extractor,
)
from dino_jax.models.network import Network

HELD_OUT = ImagesConfig(split="validation")
Metrics = dict[str, float]
Variables = Any
Reference = dict[str, Any]


@dataclass(frozen=True)
class EvaluationConfig:
    """Options of every kind; a kind adds its images and numbers."""

    kind: str = option("", "what is measured")
    every_epochs: float = option(
        10.0, "between two measurements; 0: never by itself", at_least=0, at_most=MOST_EPOCHS
    )
    of: tuple[str, ...] = option((), "roles that are measured; (): config.evaluated")
    image_size: int | None = option(
        None, "side in pixels; None: config.image_size", at_least=1, at_most=MOST_SIDE
    )
    batch_size: int = option(
        512, "images at once, over all devices", at_least=1, at_most=MOST_IMAGES
    )


class Evaluation(Protocol):
    """Measures networks."""

    def __call__(self, step: int, networks: Mapping[str, Variables]) -> Metrics:
        """Measures; all processes take part and get the same.

        Args:
          step: finished updates, 0 before the first one.
          networks: variables of all roles of the run.
        """
        ...


class Guarding(Evaluation, Protocol):
    """An evaluation that can guard a run: it compares one network with how that started.

    Attributes:
      guarded: name of the number that is compared, such as "knn10/teacher".
    """

    guarded: str

    def reference(self, variables: Variables, known: Metrics) -> Reference:
        """Data to keep of the first model, as JSON; its "value" is its measure.

        Args:
          variables: variables of the evaluated network.
          known: measurements that this evaluation has just made of it, if any.
        """
        ...

    def value(self, variables: Variables, reference: Reference, known: Metrics) -> float:
        """The measure of a later model, in [0, 1]; 1 is best.

        Raises:
          ValueError: if the reference was made from other images.
        """
        ...


@dataclass(frozen=True)
class Images:
    """Images of a source, as an evaluation reads them.

    Attributes:
      source: source of the images.
      count: number of images, evenly spaced.
      image_size: side in pixels, see `view.resize_for_evaluation`.
      batch_size: images per batch over all processes.
      max_pixels: larger images count as unreadable.
      channels: C, of an image.
    """

    source: ImageSource
    count: int
    image_size: int
    batch_size: int
    max_pixels: int
    channels: int = 3

    def stream(self, host: int, hosts: int) -> Iterator[Batch]:
        """The batches of one of several processes, in order."""
        return build_eval_stream(
            self.source,
            image_size=self.image_size,
            batch_size=self.batch_size,
            max_pixels=self.max_pixels,
            host=host,
            hosts=hosts,
            max_images=self.count,
            channels=self.channels,
        )


@dataclass(frozen=True)
class Context:
    """The run in which networks are evaluated. Making it opens nothing.

    Attributes:
      networks: modules by role; roles with the same module share its compiled program.
      frozen: roles whose variables never change.
      evaluated: the role that stands for the run.
      image_size: side in pixels at which images are evaluated, unless an evaluation has its own.
      max_pixels: larger images count as unreadable.
      decoding: how images become pixels, where their section does not say it.
      mesh: mesh of the devices.
      folder: workdir.
    """

    networks: Mapping[str, Network]
    frozen: frozenset[str]
    evaluated: str
    image_size: int
    max_pixels: int
    mesh: Mesh
    folder: epath.Path
    decoding: Decoding = RGB
    _sources: list[tuple[str, Any, ImageSource]] = field(default_factory=list, repr=False)
    _extractors: list[tuple[Network, Take, Extract]] = field(default_factory=list, repr=False)

    def roles(self, config: Any) -> tuple[str, ...]:
        """The roles of an evaluation."""
        return tuple(config.of) or (self.evaluated,)

    @property
    def sources(self) -> dict[str, ImageSource]:
        """The open sources by the name of the section that came first."""
        return {where: source for where, _, source in self._sources}

    def share(self, config: Any, source: ImageSource, where: str = "config.data") -> None:
        """Lets evaluations use an open source; for the arguments see `open_source`."""
        self._sources.append((where, resolve_decoding(config, where, self.decoding), source))

    def open_source(self, where: str, config: Any) -> ImageSource:
        """Opens a source, only once for all evaluations that share it.

        Args:
          where: name of its section, for messages.
          config: config of the source.

        Raises:
          ValueError: as in `build_source`.
          OSError: as in `build_source`.
        """
        config = resolve_decoding(config, where, self.decoding)
        for _, known, source in self._sources:
            if known == config:
                return source
        source = build_source(config, where)
        self._sources.append((where, config, source))
        return source

    def open_images(self, where: str, images: Any, config: Any, most: int) -> Images:
        """Opens some images of an evaluation.

        Args:
          where: name of the images' section, for messages.
          images: that section.
          config: config of the evaluation.
          most: largest number of images.

        Raises:
          ValueError: as in `open_source`.
          OSError: as in `open_source`.
        """
        source = self.open_source(where, images)
        size = config.image_size or self.image_size
        count = min(most, len(source))
        channels = self.decoding.channels
        return Images(source, count, size, config.batch_size, self.max_pixels, channels)

    def features(
        self, role: str, variables: Variables, images: Images, take: Take = cls_token
    ) -> LabeledFeatures:
        """Features of images in a network; all processes take part and get the same.

        Args:
          role: role of the network.
          variables: its variables.
          images: images of an evaluation.
          take: what is taken of the network, the same object at every call: it is compiled once.
        """
        stream = images.stream(jax.process_index(), jax.process_count())
        return extract_features(self._extractor(role, take), variables, stream, self.mesh)

    def _extractor(self, role: str, take: Take) -> Extract:
        network = self.networks[role]
        for same, known, extract in self._extractors:
            if same == network and known is take:
                return extract
        extract = make_extractor(network, self.mesh, take)
        self._extractors.append((network, take, extract))
        return extract


def check_common(where: str, config: Any, context: Context) -> None:
    """Checks the options that every kind has, as far as no images are needed.

    Args:
      where: name of the section, for messages.
      config: config of the evaluation.
      context: context of the run.

    Raises:
      ValueError: if a role is unknown, or a size does not fit devices or networks.
    """
    devices, batch_size = context.mesh.size, config.batch_size
    if batch_size % devices:
        raise ValueError(
            f"{where}.batch_size ({batch_size}) must be a multiple of the {devices} devices; try "
            f"--{where}.batch_size={max(batch_size // devices, 1) * devices}"
        )
    for role in context.roles(config):
        if role not in context.networks:
            raise ValueError(
                f"{where}.of {tuple(config.of)} has the role {role!r}, which config.roles lacks; "
                f"{suggest(role, context.networks)}"
            )
    own = config.image_size
    name = f"{where}.image_size" if own else "config.image_size"
    check_size(name, own or context.image_size, context, context.roles(config))


def check_size(name: str, size: int, context: Context, roles: Iterable[str]) -> None:
    """Checks that images have at least one patch.

    Args:
      name: name of the option.
      size: its value, side in pixels.
      context: context of the run.
      roles: roles whose networks look at the images.

    Raises:
      ValueError: if they have none.
    """
    patch_size = max(context.networks[role].backbone.patch_size for role in roles)
    if size < patch_size:
        raise ValueError(
            f"{name} ({size}) is smaller than one patch of {patch_size} pixels; try "
            f"--{name}={patch_size}"
        )


def check_neighbours(where: str, k: int, images: Images, section: str) -> None:
    """Checks that every image has more other images than neighbors to compare.

    Args:
      where: name of the evaluation's section, for messages.
      k: number of neighbors.
      images: images that are compared with each other.
      section: name of the images' section in that of the evaluation.

    Raises:
      ValueError: if there are too few images.
    """
    if images.count <= k:
        raise ValueError(
            f"{where}.k ({k}) neighbors of every image are compared, but {where}.{section} has "
            f"{images.count} images; add images or try --{where}.k={max(images.count - 1, 1)}"
        )
