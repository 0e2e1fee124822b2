"""The networks of a run by role: what each of them sees, and how it follows the one that learns.

    {"student": Role(network, Learns(), sees=("global", "local"), masked="hide", draws=True),
     "teacher": Role(network, Averages(momentum), sees=("global",))}

is DINO. A method without a teacher has the student alone, Gram anchoring a third role that copies
the teacher periodically, a distillation one that is frozen.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import optax

from dino_jax.config.section import named, option, section
from dino_jax.models.network import Network
from dino_jax.optim.parts import PartsConfig, take_parts
from dino_jax.optim.schedules import Schedule, build_cosine

Variables = dict[str, Any]


class Follow(Protocol):
    """How the variables of a role change after an update of the learner.

    Attributes:
      in_state: whether they are part of the state; else they are passed to the step.
      by_batch: whether BatchNorm uses and tracks the statistics of the batch; else it uses those of
        the variables.
    """

    @property
    def in_state(self) -> bool: ...

    @property
    def by_batch(self) -> bool: ...

    def __call__(
        self, own: Variables, seen: Variables, moved: Mapping[str, Variables], step: jax.Array
    ) -> Variables:
        """The next variables.

        Args:
          own: variables before the update.
          seen: statistics of this role's own pass, {} without one or without BatchNorm.
          moved: roles that have moved already, the learner first.
          step: updates before this one.
        """
        ...

    def describe(self, last: int) -> str:
        """Description for the screen; `last` is the last step of the run."""
        ...


@dataclass(frozen=True)
class Learns:
    """The optimizer moves it; the role of exactly one network."""

    in_state = True
    by_batch = True

    def __call__(
        self, own: Variables, seen: Variables, moved: Mapping[str, Variables], step: jax.Array
    ) -> Variables:
        raise TypeError("the optimizer moves the role that learns")

    def describe(self, last: int) -> str:
        return "learns"


@dataclass(frozen=True)
class Averages:
    """The exponential moving average of the learner's parameters, for this role's modules.

    Attributes:
      of: the learner.
      momentum: schedule of the share of the old average.
      delay: steps by which the schedule is read later; 1 gives the numbers of MoCo v3, which
        averages before the forward pass.
    """

    of: str
    momentum: Schedule
    delay: int = 0

    in_state = True
    by_batch = True

    def __call__(
        self, own: Variables, seen: Variables, moved: Mapping[str, Variables], step: jax.Array
    ) -> Variables:
        """Statistics are those of a pass of its own, else the learner's."""
        learner = take_modules(moved[self.of], own)
        params = optax.incremental_update(
            learner["params"], own["params"], 1.0 - self.momentum(step + self.delay)
        )
        return {**learner, **seen, "params": params}

    def describe(self, last: int) -> str:
        first, final = (self.momentum(step + self.delay) for step in (0, last))
        return f"momentum {first:g} to {final:.6g}"


@dataclass(frozen=True)
class Copies:
    """Equal to another role as it was after the last step at which a copy was due.

    Copies are due after the finished steps that are multiples of `every_steps`, from `first_step`
    on, `most` of them: when a run is resumed, they follow from its step. Steps are those of the
    clock, which counts the ones that were skipped, too. A step whose loss or gradient is not finite
    changes no variables, so a copy that is due at it is not made: the role stays as it is until the
    next multiple.

    Attributes:
      of: the learner or an average of it.
      every_steps: steps between two copies.
      first_step: finished steps before which there is none.
      most: number of copies; None: no end.
    """

    of: str
    every_steps: int
    first_step: int = 0
    most: int | None = None

    in_state = True
    by_batch = False

    def __call__(
        self, own: Variables, seen: Variables, moved: Mapping[str, Variables], step: jax.Array
    ) -> Variables:
        now = self.is_due(step + 1)
        newer = take_modules(moved[self.of], own)
        return jax.tree.map(lambda new, old: jnp.where(now, new, old), newer, own)

    def is_due(self, finished: jax.Array) -> jax.Array:
        """Whether a copy is made after so many steps."""
        number = finished // self.every_steps - self._first_multiple
        wanted = number >= 0 if self.most is None else (number >= 0) & (number < self.most)
        return (finished % self.every_steps == 0) & wanted

    @property
    def _first_multiple(self) -> int:
        """The first copy comes after so many times `every_steps` steps."""
        return max(-(-self.first_step // self.every_steps), 1)

    def describe(self, last: int) -> str:
        first = self._first_multiple * self.every_steps
        begin = f", first after {first}" if self.first_step else ""
        end = "" if self.most is None else f", at most {self.most} times"
        return f"copies {self.of} every {self.every_steps} steps{begin}{end}"


@dataclass(frozen=True)
class Frozen:
    """Never changes, and is not part of the state: its variables are passed to the step."""

    in_state = False
    by_batch = False

    def __call__(
        self, own: Variables, seen: Variables, moved: Mapping[str, Variables], step: jax.Array
    ) -> Variables:
        return own

    def describe(self, last: int) -> str:
        return "frozen"


@dataclass(frozen=True)
class Role:
    """One network of a run.

    Attributes:
      network: module, without the heads that it leaves out.
      follow: how it changes.
      sees: groups of crops of its forward pass, in the order of its views; () for no pass.
      masked: what happens to masked patches of the global crops: "no" (nothing), "hide" (the mask
        token replaces them), "drop" (the backbone gets the others only).
      draws: whether its pass has stochastic depth.
    """

    network: Network
    follow: Follow
    sees: tuple[str, ...] = ()
    masked: str = "no"
    draws: bool = False


@dataclass(frozen=True)
class RoleConfig:
    """A section of `config.roles`."""

    follow: Literal["learns", "averages", "copies", "frozen"] = option(
        "averages",
        "learns (by the optimizer; exactly one) | averages (EMA of that one) | copies | frozen",
    )
    sees: tuple[str, ...] = option((), "groups of crops of its forward pass; (): no pass")
    masked: Literal["no", "hide", "drop"] = option(
        "no", "masked patches of its global crops: no | hide (mask token) | drop (left out)"
    )
    drop_path: bool = option(False, "stochastic depth in its pass")
    leaves_out: tuple[str, ...] = option((), "heads that this network lacks")
    momentum: float = option(0.996, "averages: share of the old average", at_least=0, at_most=1)
    momentum_end: float = option(1.0, "averages: at the end of the run", at_least=0, at_most=1)
    momentum_delay: int = option(
        0, "averages: 1 reads it one step later (MoCo v3)", at_least=0, at_most=1_000_000
    )
    parts: dict[str, PartsConfig] = named(
        PartsConfig, {}, "averages: a schedule in three parts instead of the cosine: momentum"
    )
    of: str = option("teacher", "copies: role that is copied")
    every_steps: int = option(10_000, "copies: updates between two copies", at_least=1)
    first_step: int = option(0, "copies: updates before the first copy", at_least=0)
    most_copies: int | None = option(None, "copies: how many; None: no end", at_least=0)
    path: str = option("", "frozen: workdir of a run, or file of weights (no heads)")
    step: int | None = option(None, "frozen: its checkpoint; None: the newest", at_least=0)


def build_roles(
    config: Any,
    network: Network,
    frozen: Mapping[str, Network],
    *,
    total_steps: int,
    steps_per_epoch: int = 1,
) -> dict[str, Role]:
    """Builds `config.roles`.

    Args:
      config: `config.roles`, sections by name.
      network: network with all heads.
      frozen: modules of the frozen roles.
      total_steps: updates of the run.
      steps_per_epoch: updates per epoch.

    Raises:
      ValueError: if not exactly one role learns, a role copies one that it cannot, leaves out an
        unknown head, or is frozen without a network.
    """
    sections = {
        name: section(f"config.roles.{name}", given, RoleConfig) for name, given in config.items()
    }
    learner = name_of_learner({name: each.follow for name, each in sections.items()})
    if sections[learner].leaves_out:
        raise ValueError(
            f"config.roles.{learner}.leaves_out must be (): the role that learns has all heads"
        )
    roles = {}
    for name, each in sections.items():
        where = f"config.roles.{name}"
        if each.follow == "frozen":
            module = _frozen_network(where, name, frozen)
        else:
            module = _without_heads(where, network, each.leaves_out)
        follow = FOLLOWS[each.follow](where, each, learner, total_steps, steps_per_epoch)
        roles[name] = Role(module, follow, each.sees, each.masked, each.drop_path)
    _check_copies(roles)
    return roles


def _build_average(
    where: str, config: RoleConfig, learner: str, total_steps: int, steps_per_epoch: int
) -> Averages:
    def cosine() -> Schedule:
        return build_cosine(config.momentum, config.momentum_end, total_steps=total_steps)

    schedules = take_parts(
        f"{where}.parts",
        config.parts,
        {"momentum": cosine},
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        at_most=1.0,
    )
    return Averages(learner, schedules["momentum"], config.momentum_delay)


def _build_copies(where: str, config: RoleConfig, *others: Any) -> Copies:
    return Copies(config.of, config.every_steps, config.first_step, config.most_copies)


FOLLOWS: dict[str, Callable[[str, RoleConfig, str, int, int], Follow]] = {
    "learns": lambda where, config, *length: Learns(),
    "averages": _build_average,
    "copies": _build_copies,
    "frozen": lambda where, config, *length: Frozen(),
}


def name_of_learner(follows: Mapping[str, str]) -> str:
    """The one role whose `follow` is "learns".

    Raises:
      ValueError: if it is not exactly one.
    """
    learners = sorted(name for name, follow in follows.items() if follow == "learns")
    if len(learners) != 1:
        raise ValueError(
            f"exactly one of config.roles must have follow='learns', got {learners} of "
            f"{sorted(follows)}"
        )
    return learners[0]


def _frozen_network(where: str, name: str, frozen: Mapping[str, Network]) -> Network:
    if name not in frozen:
        raise ValueError(
            f"{where} is frozen, and its network was not opened; give {where}.path the workdir of "
            "a run, as train does"
        )
    return frozen[name]


def _without_heads(where: str, network: Network, left_out: tuple[str, ...]) -> Network:
    unknown = sorted(set(left_out) - set(network.heads))
    if unknown:
        raise ValueError(
            f"{where}.leaves_out names {unknown}; config.network.heads has {sorted(network.heads)}"
        )
    if not left_out:
        return network
    heads = {name: head for name, head in network.heads.items() if name not in left_out}
    return network.clone(heads=heads)


def _check_copies(roles: Mapping[str, Role]) -> None:
    """Raises a ValueError if a role copies another copy, or heads that its source lacks."""
    movers = {
        name: role for name, role in roles.items() if isinstance(role.follow, Learns | Averages)
    }
    for name, role in roles.items():
        if not isinstance(role.follow, Copies):
            continue
        source = role.follow.of
        if source not in movers:
            raise ValueError(
                f"config.roles.{name}.of is {source!r}; it can copy one of {sorted(movers)}"
            )
        missing = sorted(set(role.network.heads) - set(movers[source].network.heads))
        if missing:
            raise ValueError(
                f"config.roles.{name} copies {source}, which has no heads {missing}; add them to "
                f"config.roles.{name}.leaves_out"
            )


def find_learner(roles: Mapping[str, Role]) -> str:
    """Name of the role that learns."""
    (learner,) = (name for name, role in roles.items() if isinstance(role.follow, Learns))
    return learner


def in_state(roles: Mapping[str, Role]) -> list[str]:
    """Names of the roles whose variables are part of the state; copies after what they copy."""
    learner = find_learner(roles)
    others = sorted(name for name, r in roles.items() if r.follow.in_state and name != learner)
    return [learner, *sorted(others, key=lambda name: isinstance(roles[name].follow, Copies))]


def follow_learner(
    roles: Mapping[str, Role],
    networks: Mapping[str, Variables],
    params: Variables,
    statistics: Mapping[str, Variables],
    step: jax.Array,
) -> dict[str, Variables]:
    """The next variables of all roles of the state.

    Args:
      roles: roles of the run.
      networks: variables before the update.
      params: parameters of the learner after it.
      statistics: of BatchNorm, of the roles that had a pass with those of the batch.
      step: updates before this one.
    """
    learner, *others = in_state(roles)
    moved = {learner: {**statistics[learner], "params": params}}
    for name in others:
        moved[name] = roles[name].follow(networks[name], statistics.get(name, {}), moved, step)
    return moved


def describe_follow(roles: Mapping[str, Role], step: jax.Array) -> dict[str, jax.Array]:
    """Scalars for the log: {"teacher_momentum": …} of every average."""
    return {
        f"{name}_momentum": role.follow.momentum(step + role.follow.delay)
        for name, role in roles.items()
        if isinstance(role.follow, Averages)
    }


def take_modules(variables: Variables, like: Variables) -> Variables:
    """The collections and modules (backbone, heads) that `like` has, too."""
    return {
        kind: {module: variables[kind][module] for module in modules}
        for kind, modules in like.items()
    }


def fit_roles(roles: Mapping[str, Role], fit: Callable[[Network], Network]) -> dict[str, Role]:
    """Roles whose modules went through `fit`."""
    return {
        name: dataclasses.replace(role, network=fit(role.network)) for name, role in roles.items()
    }
