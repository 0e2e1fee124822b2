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
from dino_jax.step.roles import Role, Variables, find_learner, in_state


class TrainState(flax.struct.PyTreeNode):
    """Everything that a run needs to continue.

    Attributes:
      step: int32, steps done. The only clock: data position, checkpoint label, RNG fold and
        schedule index.
      networks: variables by role: {"params": …} and, with BatchNorm, {"batch_stats": …}; float32.
      opt_state: state of the optax transform.
      objectives: state by objective, such as {"dino": {"center": [K]}}.
      rng: base key, never advanced: fold_in(rng, step).
      skipped: int32 counts of steps whose loss or gradient was not finite: {"total", "in_a_row"}.
    """

    step: jax.Array
    networks: dict[str, Variables]
    opt_state: optax.OptState
    objectives: dict[str, Any]
    rng: jax.Array
    skipped: dict[str, jax.Array]


def init_train_state(
    roles: Mapping[str, Role],
    objectives: Mapping[str, Objective],
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    rng: jax.Array,
) -> TrainState:
    """First state of a run; all networks start equal.

    Call it under jit, with the shardings of the state as out_shardings: every network then has
    buffers of its own, and nothing is ever whole on one device.

    Args:
      roles: roles by name.
      objectives: objectives by name.
      optimizer: optimizer of the learner's params.
      image_shape: (H, W, C) of a global crop.
      rng: typed base key of the run.
    """
    init_rng, run_rng = jax.random.split(rng)
    learner = find_learner(roles)
    variables = init_variables(roles[learner].network, image_shape, init_rng)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        networks={
            name: variables if name == learner else _copy_for(roles[name].network, variables)
            for name in in_state(roles)
        },
        opt_state=optimizer.init(variables["params"]),
        objectives={name: objective.init() for name, objective in objectives.items()},
        rng=run_rng,
        skipped={"total": jnp.zeros((), jnp.int32), "in_a_row": jnp.zeros((), jnp.int32)},
    )


def _copy_for(network: Network, variables: Variables) -> Variables:
    """A copy of the variables that a network has, from those of all heads."""
    modules = {"backbone", *(f"heads_{name}" for name in network.heads)}
    kept = {
        kind: {name: part for name, part in parts.items() if name in modules}
        for kind, parts in variables.items()
    }
    return jax.tree.map(jnp.copy, {kind: parts for kind, parts in kept.items() if parts})


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
