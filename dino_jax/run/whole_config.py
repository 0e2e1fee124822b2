"""The whole config of a run: its sections, reading and writing."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from etils import epath

from dino_jax.config.defaults import complete, to_config_dict
from dino_jax.config.range import MAX_PIXELS, MOST_EPOCHS, MOST_IMAGES, MOST_SIDE
from dino_jax.config.section import UnknownNameError, kinds, named, option, section
from dino_jax.config.upgrade import FORMAT, rename_hint, upgrade
from dino_jax.data.masking import MaskingConfig
from dino_jax.data.multi_crop import AugmentConfig
from dino_jax.data.sources import ImagesConfig
from dino_jax.evaluation.online import proxies
from dino_jax.evaluation.online.build import EVALUATIONS
from dino_jax.models.build import NetworkConfig
from dino_jax.objectives.build import OBJECTIVES
from dino_jax.optim.optimizer import OptimizerConfig
from dino_jax.run.guard import GuardConfig
from dino_jax.run.profile import ProfileConfig
from dino_jax.run.runtime import RuntimeConfig
from dino_jax.step.roles import RoleConfig
from dino_jax.visualize.probe_images import ProbesConfig
from dino_jax.weights.init_from import InitFromConfig
from dino_jax.workdir.config_json import read_config_json


@dataclasses.dataclass(frozen=True)
class Config:
    """All options of a run; their defaults are the vanilla ViT-S/16 run of DINO."""

    seed: int = option(0, "seed of all random numbers", at_least=0, at_most=2**32 - 1)
    batch_size: int = option(
        512, "images per update, over all devices", at_least=1, at_most=MOST_IMAGES
    )
    accumulate_steps: int = option(1, "passes per update", at_least=1, at_most=MOST_IMAGES)
    epochs: float = option(100.0, "length of the run", above=0, at_most=MOST_EPOCHS)
    steps_per_epoch: int = option(0, "updates; 0: images // batch_size", at_least=0)
    data: ImagesConfig = option(ImagesConfig(), "training images")
    max_pixels: int = option(
        MAX_PIXELS, "larger images count as unreadable (Pillow's own limit)", at_least=1
    )
    max_unreadable_share: float = option(
        0.05, "largest share of the images seen before the run stops", at_least=0, at_most=1
    )
    augment: AugmentConfig = option(AugmentConfig(), "crops")
    masking: MaskingConfig = option(MaskingConfig(), "masked patches of the global crops")
    network: NetworkConfig = option(NetworkConfig(), "of all roles")
    roles: dict[str, RoleConfig] = named(
        RoleConfig,
        {
            "student": RoleConfig("learns", ("global", "local"), masked="hide", drop_path=True),
            "teacher": RoleConfig("averages", ("global",)),
        },
        "networks by name",
    )
    evaluated: str = option("teacher", "role that is evaluated, loaded and exported")
    objectives: dict[str, Any] = kinds(
        OBJECTIVES, "losses by name", default={"dino": "dino"}, is_table=True
    )
    optimizer: OptimizerConfig = option(OptimizerConfig(), "update rule of the role that learns")
    max_skipped_in_a_row: int = option(
        10, "steps that are not finite before the run stops", at_least=1
    )
    init_from: InitFromConfig = option(InitFromConfig(), "first weights")
    image_size: int = option(
        224, "side in pixels of images that are evaluated", at_least=1, at_most=MOST_SIDE
    )
    evaluations: dict[str, Any] = kinds(
        EVALUATIONS,
        "what looks at the features, by name",
        default={
            "knn": "knn",
            "proxies": proxies.Config(of=("teacher", "student")),
            "agreement": "agreement",
        },
        is_table=True,
    )
    probes: ProbesConfig = option(ProbesConfig(), "images that every evaluation shows")
    guard: GuardConfig = option(GuardConfig(), "against getting worse than init_from")
    runtime: RuntimeConfig = option(RuntimeConfig(), "how the run is carried out")
    profile: ProfileConfig = option(ProfileConfig(), "traces of steps")


def default_config() -> Any:
    """A ConfigDict of every option at its default, for a config file to change."""
    return to_config_dict(Config())


def complete_config(given: Any) -> Any:
    """A ConfigDict with every option, at the default where `given` lacks it; mistakes stay."""
    return complete(given, Config)


def read_config(given: Any, defaulted: list[str] | None = None) -> Config:
    """Reads a ConfigDict or a mapping of today's form.

    Args:
      given: the whole config.
      defaulted: gets the dotted name of every option that `given` lacks.

    Raises:
      ValueError: if a name is unknown, or a value has another type or is out of range.
    """
    try:
        return section("config", given, Config, defaulted)
    except UnknownNameError as error:
        hint = rename_hint(error.place)
        if not hint:
            raise
        raise UnknownNameError(error.place, f"{error}; {hint}") from error


def read_plain(plain: Mapping[str, Any]) -> tuple[Config, list[str]]:
    """Reads the content of a config.json, of this version or an earlier one.

    Returns:
      The config, and the dotted names of the options that the file lacks.

    Raises:
      ValueError: if the file comes from a later version, or a value does not fit.
    """
    if "imported" in plain:
        raise ValueError(
            "the workdir holds imported weights: give it to --config.init_from.path, and the run "
            "a --workdir of its own"
        )
    defaulted: list[str] = []
    try:
        return read_config(upgrade(dict(plain)), defaulted), defaulted
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the config.json of the workdir cannot be read: {error}") from error


def to_plain(config: Config) -> dict[str, Any]:
    """A config as config.json holds it, with the number of its format."""
    return {"format": FORMAT, **dataclasses.asdict(config)}


def in_todays_form(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json of any version as `to_plain` gives it; raises ValueErrors as `read_plain`."""
    return to_plain(read_plain(plain)[0])


def describe_older(workdir: epath.PathLike, most: int = 5) -> list[str]:
    """A line about the options that the config.json of a workdir lacks, if there are any.

    Args:
      workdir: workdir of the run; its config.json may be missing.
      most: options that are named.

    Raises:
      ValueError: as `read_plain`.
    """
    existing = read_config_json(workdir)
    if existing is None:
        return []
    defaulted = read_plain(existing)[1]
    if not defaulted:
        return []
    more = f", … ({len(defaulted)} in all)" if len(defaulted) > most else ""
    names = ", ".join(name.removeprefix("config.") for name in defaulted[:most])
    return [f"config      of an earlier version; by default: {names}{more}"]
