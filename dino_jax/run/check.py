"""The one check of a config, which training, doctor and plan share."""

from typing import Any, NamedTuple

from etils import epath
from jax.sharding import Mesh

from dino_jax.devices.sharding import check_batch
from dino_jax.run.instruments import check_instruments
from dino_jax.run.profile import check_profile
from dino_jax.run.whole_config import Config
from dino_jax.run.writers import check_writers
from dino_jax.step.recipe import Recipe, build_recipe
from dino_jax.weights.frozen import FrozenRoles, open_frozen
from dino_jax.weights.init_from import check_init_from


class Checked(NamedTuple):
    """The parts of a run of a config.

    Attributes:
      config: config with the checkpoint of every frozen role.
      recipe: parts of the train step.
      train_step: the step itself, not compiled.
      frozen: networks of the frozen roles.
    """

    config: Config
    recipe: Recipe
    train_step: Any
    frozen: FrozenRoles


def check_config(config: Config, images: int, mesh: Mesh, workdir: epath.PathLike = "") -> Checked:
    """Builds every part of a run that can be wrong, but no arrays, and reads no images.

    Args:
      config: config of the run.
      images: number of training images.
      mesh: mesh of the devices.
      workdir: workdir of the run; "": a new one.

    Raises:
      ValueError: if values are out of range or do not fit together, the images or the devices.
      OSError: if a run or file of weights that the config names does not exist.
    """
    runtime = config.runtime
    check_writers(runtime.writers)
    check_profile(config.profile.steps, workdir)
    check_batch(config, mesh)
    check_init_from(config.init_from, workdir)
    frozen = open_frozen(config.roles, workdir)
    recipe = build_recipe(config, images, frozen.networks)
    train_step = recipe.make_step(runtime.log_every_steps, mesh, runtime.gradient_dtype)
    check_instruments(config, recipe, mesh)
    return Checked(frozen.fill_steps(config), recipe, train_step, frozen)
