"""The config.json of earlier versions in today's form.

`FORMAT` counts the forms. Version 0.1 wrote no "format", its form counts as 0. A name that a form
of today lacks needs nothing here: it has its default.
"""

from collections.abc import Callable
from typing import Any

from dino_jax.config import upgrade_evaluations

FORMAT = 1

Plain = dict[str, Any]


def upgrade(plain: Plain) -> Plain:
    """A config.json in today's form, without its "format"; the argument stays as it is.

    Args:
      plain: content of the file.

    Raises:
      ValueError: if the file comes from a later version.
    """
    form = plain.get("format", 0)
    if not isinstance(form, int) or form > FORMAT:
        raise ValueError(
            f"config.json has format {form!r}, this version of dino_jax knows formats up to "
            f"{FORMAT}; install the version that wrote it, or a newer one"
        )
    config = {name: value for name, value in plain.items() if name != "format"}
    for change in STEPS[form:]:
        config = change(config)
    return config


def from_0_1(config: Plain) -> Plain:
    """Version 0.1: a student and a teacher, one k-NN, crops with fixed names."""
    for change in SECTIONS_OF_0_1:
        config = change(config)
    return config


def _optimizer(config: Plain) -> Plain:
    """Options of one kind lie in the section of that kind."""
    old = config.get("optimizer", {})
    rule = {name: old[name] for name in ("b1", "b2", "eps") if name in old}
    momentum = {name: old[name] for name in ("momentum",) if name in old}
    trust = {name: old[name] for name in ("trust_coefficient",) if name in old}
    moved = {"b1", "b2", "eps", "momentum", "trust_coefficient"}
    kept = {name: value for name, value in old.items() if name not in moved}
    kinds = {"adamw": rule, "sgd": momentum, "lars": momentum | trust}
    return config | {"optimizer": kept | kinds}


def _augment(config: Plain) -> Plain:
    """Crops are a table, and name their group."""
    old = dict(config.get("augment", {}))
    groups = {"global_1": "global", "global_2": "global", "local": "local"}
    crops = {name: old.pop(name) | {"group": groups[name]} for name in groups if name in old}
    return config | {"augment": old | {"crops": crops}}


def _heads(config: Plain) -> Plain:
    """There was one kind of heads; none took another, and a head of iBOT's own takes patches."""
    network, objectives = config.get("network", {}), config.get("objectives", {})
    if "heads" not in network:
        return config
    users: dict[str, set[str]] = {}
    for objective, options in objectives.items():
        users.setdefault(options.get("head", ""), set()).add(objective)
    heads = {
        name: {"kind": "dino", "of": "patches" if users.get(name) == {"ibot"} else "cls"} | head
        for name, head in network["heads"].items()
    }
    return config | {"network": network | {"heads": heads}}


def _roles(config: Plain) -> Plain:
    """A student, a teacher that is its average, and for a distillation a frozen teacher."""
    if not config.keys() & {"teacher", "distill"}:
        return config
    teacher, distill = config.get("teacher", {}), config.get("distill", {})
    masking = dict(config.get("masking", {}))
    hidden = masking.pop("hide", True)
    roles = {
        "student": {
            "follow": "learns",
            "sees": ["global", "local"],
            "masked": "hide" if hidden else "no",
            "drop_path": True,
        },
        "teacher": {"follow": "averages", "sees": ["global"], **teacher},
    }
    if distill.get("path"):
        roles["teacher"]["sees"] = []
        roles["frozen_teacher"] = {"follow": "frozen", "sees": ["global"], **distill}
    kept = {name: x for name, x in config.items() if name not in ("teacher", "distill")}
    if "masking" in config:
        kept["masking"] = masking
    return kept | {"roles": roles, "evaluated": "teacher"}


def _objectives(config: Plain) -> Plain:
    """Each has a kind, and those that have targets name the role that gives them."""
    if "objectives" not in config:
        return config
    targets = "frozen_teacher" if "frozen_teacher" in config.get("roles", {}) else "teacher"
    objectives = {}
    for name, old in config["objectives"].items():
        renamed = {"least_local_pairs": "min_local_pairs"}
        section = {renamed.get(key, key): value for key, value in old.items()}
        learned = {"targets": targets} if "teacher_temperature" in old else {}
        objectives[name] = {"kind": name, **section, **learned}
    return config | {"objectives": objectives}


# Where the options of version 0.1 are now, by the beginning of their names.
RENAMED = {
    "config.knn": "config.evaluations.knn (and .proxies), its image_size is config.image_size",
    "config.teacher": "config.roles.teacher",
    "config.distill": "a role with follow='frozen' in config.roles",
    "config.masking.hide": "config.roles.student.masked",
    "config.augment.global_1": "config.augment.crops.global_1",
    "config.augment.global_2": "config.augment.crops.global_2",
    "config.augment.local": "config.augment.crops.local",
    "config.optimizer.b1": "config.optimizer.adamw.b1",
    "config.optimizer.b2": "config.optimizer.adamw.b2",
    "config.optimizer.eps": "config.optimizer.adamw.eps",
    "config.optimizer.momentum": "config.optimizer.sgd.momentum or config.optimizer.lars.momentum",
    "config.optimizer.trust_coefficient": "config.optimizer.lars.trust_coefficient",
    "config.objectives.dino.least_local_pairs": "config.objectives.dino.min_local_pairs",
    "config.guard.measure": "config.guard.evaluation",
    "config.probes.source": "config.probes.evaluation",
}


def rename_hint(place: str) -> str:
    """Present name of an option of version 0.1; "" if it is not one."""
    for old, new in RENAMED.items():
        if place == old or place.startswith(f"{old}."):
            return f"{old} of version 0.1 is {new} now"
    return ""


# One function per section that has changed; each takes and returns the whole config.
SECTIONS_OF_0_1: tuple[Callable[[Plain], Plain], ...] = (
    *upgrade_evaluations.SECTIONS,  # first: they read other sections as 0.1 wrote them
    _optimizer,
    _augment,
    _heads,
    _roles,
    _objectives,
)

# STEPS[i] turns form i into form i + 1.
STEPS: tuple[Callable[[Plain], Plain], ...] = (from_0_1,)
