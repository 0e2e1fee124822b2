"""Checks that a run fulfills the requirements of its objectives."""

from collections.abc import Collection, Mapping
from typing import Any

from dino_jax.models.network import Network
from dino_jax.objectives.base import Needs, Objective
from dino_jax.step.roles import Frozen, Role, find_learner


def check_needs(
    objectives: Mapping[str, Objective],
    roles: Mapping[str, Role],
    views: Mapping[str, int],
    *,
    has_masks: bool,
    images: int,
    accumulate_steps: int,
) -> None:
    """Checks that objectives and roles fit together.

    Args:
      objectives: objectives by name.
      roles: roles by name.
      views: crops of an image by group.
      has_masks: whether batches have masks.
      images: images of the global batch in one pass.
      accumulate_steps: passes per update.

    Raises:
      ValueError: names the objective and what it lacks.
    """
    keeps_views_apart(objectives)
    learner = find_learner(roles)
    seen = sum(views[group] for group in roles[learner].sees)
    for name, objective in objectives.items():
        where, needs = f"config.objectives.{name}", objective.needs
        _check_pass(where, needs, has_masks, images, accumulate_steps)
        if seen < needs.views:
            raise ValueError(
                f"{where} compares different views of an image: config.roles.{learner} must see at "
                f"least {needs.views}, the counts of config.augment.crops give it {seen}"
            )
        for role in needs.roles:
            _check_role(where, needs, role, roles)


def keeps_views_apart(objectives: Mapping[str, Objective]) -> bool:
    """Whether BatchNorm sees each view as a batch of its own.

    Raises:
      ValueError: if objectives ask for both.
    """
    asked = {name: o.needs.views_apart for name, o in objectives.items()}
    apart, together = (sorted(n for n, x in asked.items() if x is value) for value in (True, False))
    if apart and together:
        raise ValueError(
            f"config.objectives {apart} need BatchNorm to see each view as a batch of its own, "
            f"{together} all views together; train with only one of these sorts"
        )
    return bool(apart)


def _check_pass(
    where: str, needs: Needs, has_masks: bool, images: int, accumulate_steps: int
) -> None:
    if needs.masks and not has_masks:
        raise ValueError(f"{where} needs masks: set config.masking.probability=0.5")
    if needs.whole_batch and accumulate_steps > 1:
        raise ValueError(
            f"{where} compares all images of a batch with each other, and "
            f"config.accumulate_steps ({accumulate_steps}) shows it parts of it; use "
            "--config.accumulate_steps=1 with a smaller --config.batch_size or more devices"
        )
    if needs.group_size and images % needs.group_size:
        raise ValueError(
            f"{where}.group_size ({needs.group_size}) must divide the {images} images of "
            "a pass; use 0 for all of them"
        )


def _check_role(where: str, needs: Needs, name: str, roles: Mapping[str, Role]) -> None:
    """Checks one role that an objective reads."""
    looking = sorted(other for other, role in roles.items() if role.sees)
    if name not in looking:
        found = "sees no crops" if name in roles else "does not exist"
        raise ValueError(
            f"{where} reads the role {name!r}, which {found}; roles of config.roles that see "
            f"crops: {looking}"
        )
    learner, role = roles[find_learner(roles)], roles[name]
    unseen = sorted(set(needs.groups) - set(role.sees))
    if unseen:
        raise ValueError(
            f"{where} needs the crops {unseen} of config.roles.{name}, which sees {role.sees}"
        )
    if needs.aligned_views and learner.sees[: len(role.sees)] != role.sees:
        raise ValueError(
            f"{where} pairs the views of config.roles.{name}, which sees {role.sees}, with the "
            f"first ones of the role that learns, which sees {learner.sees}; let both begin alike"
        )
    whose = f"of the frozen {name}" if isinstance(role.follow, Frozen) else f"of {name}"
    for head in needs.heads:
        _check_head(head, whose, learner.network, role.network)
    ours, theirs = (x.network.backbone.patch_size for x in (learner, role))
    if needs.aligned_patches and ours != theirs:
        raise ValueError(
            f"{where} compares patches of the same place: the network {whose} has patches of "
            f"{theirs} pixels, the one that learns has patches of {ours}; give both the same "
            f"patch_size, or train without {where}"
        )


def _check_head(name: str, whose: str, learner: Network, other: Network) -> None:
    ours, theirs = (
        network.heads[name].out_dim if name in network.heads else None
        for network in (learner, other)
    )
    if ours != theirs:
        has = f"{theirs} outputs" if theirs else f"no such head, only {sorted(other.heads)}"
        raise ValueError(
            f"config.network.heads.{name} of the network that learns has {ours} outputs, the one "
            f"{whose} has {has}; they need the same: set --config.network.heads.{name}.out_dim or "
            "the objectives' `head`"
        )


def check_roles(roles: Mapping[str, Role], groups: Collection[str], masks: Collection[str]) -> None:
    """Checks that networks can take the inputs of their roles.

    Args:
      roles: roles by name.
      groups: groups of crops in the config.
      masks: names of the arrays about masked patches in a batch, none without masks.

    Raises:
      ValueError: if a role sees crops that nobody draws, its network cannot handle masked patches
        in the configured way, or a frozen one takes images with other channels.
    """
    ours = len(roles[find_learner(roles)].network.mean)
    for name, role in roles.items():
        unknown = sorted(set(role.sees) - set(groups))
        if unknown:
            raise ValueError(
                f"config.roles.{name}.sees names {unknown}; groups of config.augment.crops: "
                f"{sorted(groups)}"
            )
        backbone: Any = role.network.backbone
        if role.masked == "hide" and masks and not backbone.has_mask_token:
            raise ValueError(
                f"config.roles.{name}.masked='hide' needs a ViT with "
                "--config.network.backbone.has_mask_token=True"
            )
        if role.masked == "drop" and ("visible" not in masks or not backbone.drops_patches):
            raise ValueError(
                f"config.roles.{name}.masked='drop' needs a ViT and masks of equal size: "
                "config.masking.kind='random' with a probability of 1"
            )
        theirs = len(role.network.mean)
        if theirs != ours:
            raise ValueError(
                f"the network of config.roles.{name} takes images of {theirs} channels, the one "
                f"that learns of {ours}; set --config.network.backbone.in_channels={theirs}"
            )
