"""Checks that a run fulfills the requirements of its objectives."""

import math
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from dino_jax.data.augment import CropConfig
from dino_jax.data.masking import MASKED_GROUP
from dino_jax.models.network import Network
from dino_jax.objectives.base import Needs, Objective
from dino_jax.step.roles import Frozen, Role, find_learner


def check_needs(
    objectives: Mapping[str, Objective],
    roles: Mapping[str, Role],
    crops: Mapping[str, CropConfig],
    *,
    has_masks: bool,
    images: int,
    accumulate_steps: int,
) -> None:
    """Checks that objectives and roles fit together.

    Args:
      objectives: objectives by name.
      roles: roles by name.
      crops: sections of `config.augment.crops` by name.
      has_masks: whether batches have masks.
      images: images of the global batch in one pass.
      accumulate_steps: passes per update.

    Raises:
      ValueError: names the objective and what it lacks.
    """
    keeps_views_apart(objectives)
    learner, views = find_learner(roles), count_views(crops)
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
        for pair in needs.same_boxes:
            _check_boxes(where, *pair, crops)
        for group in needs.groups:
            if not views[group]:
                raise ValueError(f"{where} needs {group} crops: {_draw_one(group, crops)}")


def count_views(crops: Mapping[str, CropConfig]) -> dict[str, int]:
    """Crops of an image by group, 0 for a group of which none is drawn.

    Args:
      crops: sections of `config.augment.crops` by name.
    """
    views = Counter[str]()
    for crop in crops.values():
        views[crop.group] += crop.count
    return dict(views)


def _draw_one(group: str, crops: Mapping[str, CropConfig]) -> str:
    """What is wrong with a group of which no crop is drawn, and how to change it."""
    names = [name for name, crop in crops.items() if crop.group == group]
    first = min(names, key=lambda name: (bool(crops[name].box_of), name))
    return f"there are no {group} crops; set --config.augment.crops.{first}.count=1"


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
    if images < needs.images:
        raise ValueError(
            f"{where} needs at least {needs.images} images in a pass, got {images}; use a larger "
            "--config.batch_size or fewer --config.accumulate_steps"
        )


def _check_boxes(where: str, group: str, other: str, crops: Mapping[str, CropConfig]) -> None:
    """Checks that the crops of another group show the same parts of the image, in order."""
    own, others = (in_order(name, crops) for name in (group, other))
    boxes = [(name, crops[name].count) for name in own]
    taken = [(crops[name].box_of, crops[name].count) for name in others]
    if boxes != taken:
        raise ValueError(
            f"{where} compares {other} crops with the {group} ones of the same boxes, in the order "
            f"of their names: {own}, and the {other} ones {others} take those of "
            f"{[name for name, _ in taken]}; let each of them have count and box_of of one of "
            f"{own}, in this order"
        )


def in_order(group: str, crops: Mapping[str, CropConfig]) -> list[str]:
    """Names of the crops of a group that are drawn, as `MultiCrop` orders them."""
    names = (name for name, crop in crops.items() if crop.group == group and crop.count)
    return sorted(names, key=lambda name: (bool(crops[name].box_of), name))


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
    wanted = {*needs.groups, *(group for reader, group in needs.sees if reader == name)}
    unseen = sorted(wanted - set(role.sees))
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
    if needs.aligned_patches and role.masked == "drop":
        raise ValueError(
            f"{where} needs all patches of its crops, and config.roles.{name}.masked is 'drop'; "
            f"use --config.roles.{name}.masked=hide"
        )
    ours, theirs = (x.network.backbone.embed_dim for x in (learner, role))
    if needs.same_width and ours != theirs:
        raise ValueError(
            f"{where} compares features number by number: those of the network {whose} have "
            f"{theirs}, those of the one that learns {ours}; it is for networks of one width"
        )
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


def check_roles(
    roles: Mapping[str, Role], crops: Mapping[str, CropConfig], masks: Collection[str]
) -> None:
    """Checks that networks can take the inputs of their roles.

    Args:
      roles: roles by name.
      crops: sections of `config.augment.crops` by name.
      masks: names of the arrays about masked patches in a batch, none without masks.

    Raises:
      ValueError: if a role sees no crops of the ones it names, or one group twice, it or its
        network cannot handle masked patches in the configured way, or a frozen one takes images
        with other channels.
    """
    ours = len(roles[find_learner(roles)].network.mean)
    for name, role in roles.items():
        _check_sees(f"config.roles.{name}", role, crops)
        _check_masked(f"config.roles.{name}", role, masks)
        theirs = len(role.network.mean)
        if theirs != ours:
            raise ValueError(
                f"the network of config.roles.{name} takes images of {theirs} channels, the one "
                f"that learns of {ours}; set --config.network.backbone.in_channels={theirs}"
            )


def _check_sees(where: str, role: Role, crops: Mapping[str, CropConfig]) -> None:
    """Checks that a role with a pass sees crops, all of them once."""
    views = count_views(crops)
    unknown = sorted(set(role.sees) - set(views))
    if unknown:
        raise ValueError(
            f"{where}.sees names {unknown}; groups of config.augment.crops: {sorted(views)}"
        )
    if len(set(role.sees)) < len(role.sees):
        once = tuple(dict.fromkeys(role.sees))
        raise ValueError(f"{where}.sees names a group twice, got {role.sees}; use {once}")
    if role.sees and not any(views[group] for group in role.sees):
        raise ValueError(f"{where} sees {role.sees}: {_draw_one(role.sees[0], crops)}")


def _check_masked(where: str, role: Role, masks: Collection[str]) -> None:
    """Checks that a role gets the masks that it asks for, and its network can handle them."""
    backbone: Any = role.network.backbone
    if role.masked == "drop" and ("visible" not in masks or not backbone.drops_patches):
        raise ValueError(
            f"{where}.masked='drop' needs a ViT and masks of equal size: "
            "config.masking.kind='random' with a probability of 1"
        )
    if role.masked == "no" or not masks:
        return
    if MASKED_GROUP not in role.sees:
        raise ValueError(
            f"{where}.masked is {role.masked!r}, but only crops of the group {MASKED_GROUP!r} get "
            f"masks, and it sees {role.sees}; add {MASKED_GROUP!r} to --{where}.sees, or set "
            f"--{where}.masked=no"
        )
    if role.masked == "hide" and not backbone.has_mask_token:
        raise ValueError(
            f"{where}.masked='hide' needs a ViT with --config.network.backbone.has_mask_token=True"
        )


def check_drop_path(
    roles: Mapping[str, Role], views: Mapping[str, int], images: int, *, apart: bool
) -> None:
    """Checks that stochastic depth can draw its subsets, as `choose_subsets` does in the pass.

    Args:
      roles: roles by name.
      views: crops of an image by group.
      images: images of the global batch in one pass.
      apart: whether the backbone runs once per view.

    Raises:
      ValueError: if the groups that subsets are drawn from do not divide the samples.
    """
    for name, role in roles.items():
        group = _subset_group(role)
        samples = {seen: images * (1 if apart else views[seen]) for seen in role.sees}
        if group and any(count % group for count in samples.values()):
            fitting = math.gcd(group, *samples.values())
            raise ValueError(
                f"config.network.backbone.drop_path_group of config.roles.{name} must divide its "
                f"samples (images x views of one size) in every pass, {samples}, got {group}; use "
                f"--config.network.backbone.drop_path_group={fitting} or "
                f"--config.roles.{name}.drop_path=False"
            )


def _subset_group(role: Role) -> int | None:
    """Samples that the pass of a role draws each subset from; None: it draws none, or from all."""
    backbone: Any = role.network.backbone
    if not role.draws or getattr(backbone, "drop_path_kind", None) != "subset":
        return None
    return backbone.drop_path_group if backbone.drop_path_rate else None
