"""FLOPs of the recipe itself: the products of a step in which nothing is computed twice.

The "model FLOPs" of the literature, which no faster program can avoid.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend import core

from dino_jax.config.change import change
from dino_jax.devices.sharding import make_mesh
from dino_jax.plan.contractions import count_pairs
from dino_jax.plan.program import abstract_batch
from dino_jax.run.whole_config import Config
from dino_jax.step.recipe import build_recipe
from dino_jax.weights.frozen import open_frozen


def model_flops_per_image(config: Config, images: int) -> float:
    """FLOPs of a train step per image, student and teacher, forward and backward.

    Args:
      config: the whole config; its `remat` is not used.
      images: number of images of the training set.
    """
    return count_flops(_step_of(config, images)) / config.batch_size


def encoder_flops_per_image(config: Config, images: int) -> float:
    """The part of `model_flops_per_image` in the backbones: no heads, decoders and losses."""
    return count_flops(_step_of(config, images), "backbone") / config.batch_size


def _step_of(config: Config, images: int) -> core.Jaxpr:
    """The train step of a config in which nothing is computed twice."""
    has_remat = hasattr(config.network.backbone, "remat")
    plain = change(config, {"augment.backend": "host"})  # cutting the crops is not the recipe's
    plain = change(plain, {"network.backbone.remat": "none"}) if has_remat else plain
    mesh = make_mesh(1, jax.devices()[:1])
    frozen_roles = open_frozen(plain.roles)
    recipe = build_recipe(plain, images, frozen_roles.networks)
    state = jax.eval_shape(recipe.init, jax.random.key(config.seed))
    frozen = frozen_roles.abstract(mesh, recipe.crop_shape)
    batch = abstract_batch(plain, recipe, None)
    return jax.make_jaxpr(recipe.make_step())(state, batch, frozen).jaxpr


def count_flops(jaxpr: core.Jaxpr, module: str = "") -> float:
    """Two FLOPs per multiplication and addition of all products and convolutions of a program.

    Args:
      jaxpr: the program.
      module: name of a Flax module, whose forward and backward passes alone count; "": all counts.
    """
    return sum(_equation_flops(equation, module) for equation in jaxpr.eqns)


def _equation_flops(equation: Any, module: str) -> float:
    name, parameters = equation.primitive.name, equation.params
    if module in re.split(r"\W+", str(equation.source_info.name_stack)):
        module = ""  # all that is inside counts, too
    if module and name in ("dot_general", "conv_general_dilated"):
        return 0.0
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2.0 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        return _convolution_flops(equation)
    inner = [count_flops(jaxpr, module) for jaxpr in _inner_jaxprs(parameters)]
    if name == "cond":
        return min(inner)
    return sum(inner) * (parameters["length"] if name == "scan" else 1)


def _convolution_flops(equation: Any) -> float:
    image, kernel = (variable.aval.shape for variable in equation.invars)
    result, parameters = equation.outvars[0].aval.shape, equation.params
    images, kernels, results = parameters["dimension_numbers"]  # batch, features, then space
    products = image[images[0]] // parameters["batch_group_count"] * result[results[1]]
    products *= kernel[kernels[1]]
    for axis, (of_image, of_kernel, of_result) in enumerate(
        zip(images[2:], kernels[2:], results[2:], strict=True)
    ):
        products *= count_pairs(
            image[of_image],
            kernel[of_kernel],
            result[of_result],
            stride=parameters["window_strides"][axis],
            before=parameters["padding"][axis][0],
            dilation=parameters["lhs_dilation"][axis],
            spread=parameters["rhs_dilation"][axis],
        )
    return 2.0 * products


def _inner_jaxprs(parameters: dict[str, Any]) -> Iterator[core.Jaxpr]:
    for value in parameters.values():
        for entry in value if isinstance(value, tuple | list) else (value,):
            if isinstance(entry, core.ClosedJaxpr):
                yield entry.jaxpr
            elif isinstance(entry, core.Jaxpr):
                yield entry
