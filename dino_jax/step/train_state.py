"""Every array of a run, and its first values."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from dino_jax.models.network import Network
from dino_jax.objectives.base import Objective

Variables = dict[str, Any]


class TrainState(flax.struct.PyTreeNode):
    """All that a run needs to go on.

    Attributes:
      step: int32, steps done. The only clock: data position, checkpoint label, RNG fold and
        schedule index.
      student: {"params": …} and, with BatchNorm, {"batch_stats": …}; float32.
      teacher: the same structure; its params are the EMA of the student's, its statistics its own.
      opt_state: of the optax transform.
      objectives: state by objective, such as {"dino": {"center": [K]}}.
      rng: base key, never advanced: fold_in(rng, step).
      skipped: int32 counts of steps whose loss or gradient was not finite: {"total", "in_a_row"}.
    """

    step: jax.Array
    student: Variables
    teacher: Variables
    opt_state: optax.OptState
    objectives: dict[str, Any]
    rng: jax.Array
    skipped: dict[str, jax.Array]


def init_train_state(
    network: Network,
    objectives: Mapping[str, Objective],
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    rng: jax.Array,
) -> TrainState:
    """First state of a run; student and teacher start equal.

    Call it under jit, with the shardings of the state as out_shardings: student and teacher then
    have buffers of their own, and nothing is ever whole on one device.

    Args:
      network: of both branches.
      objectives: by name.
      optimizer: of the student's params.
      image_shape: (H, W, C) of a global crop.
      rng: typed base key of the run.
    """
    init_rng, run_rng = jax.random.split(rng)
    variables = init_variables(network, image_shape, init_rng)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        student=variables,
        teacher=jax.tree.map(jnp.copy, variables),
        opt_state=optimizer.init(variables["params"]),
        objectives={name: objective.init() for name, objective in objectives.items()},
        rng=run_rng,
        skipped={"total": jnp.zeros((), jnp.int32), "in_a_row": jnp.zeros((), jnp.int32)},
    )


def init_variables(
    network: Network, image_shape: tuple[int, int, int], rng: jax.Array
) -> Variables:
    """Random variables of a network with all its heads.

    Args:
      network: the module.
      image_shape: (H, W, C) of an image that it can take.
      rng: typed key.
    """
    init: Any = partial(network.init, method="init_all")
    return init(rng, jnp.zeros((1, *image_shape), jnp.float32))
