"""The forward pass of a role over the crops that it sees."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax

from dino_jax.data.masking import MASKED_GROUP
from dino_jax.models.crops import Crops
from dino_jax.objectives.base import Input, Outputs
from dino_jax.step.placement import gather_weights
from dino_jax.step.roles import Role, Variables

Batch = Mapping[str, jax.Array]


class Views(NamedTuple):
    """Crops of one size, and their masks for the backbone.

    Attributes:
      group: group that they belong to.
      images: [B, V, H, W, C]; views of an image stay together, so that merging them with the
        sharded batch axis needs no communication.
      masks: bool [B, V, N], patches that the mask token replaces, if any.
      visible: int32 [B, V, k], the patches that are encoded; None for all.
    """

    group: str
    images: jax.Array
    masks: jax.Array | None = None
    visible: jax.Array | None = None

    @property
    def views(self) -> int:
        """V, the number of views."""
        return self.images.shape[1]

    def apart(self) -> "list[Views]":
        """Each view by itself."""

        def take(x: jax.Array | None, view: int) -> jax.Array | None:
            return None if x is None else x[:, view : view + 1]

        return [
            self._replace(
                images=self.images[:, view : view + 1],
                masks=take(self.masks, view),
                visible=take(self.visible, view),
            )
            for view in range(self.views)
        ]

    def merged(self) -> Crops:
        """All crops of all images: [B * V, H, W, C]."""
        images = self.images.reshape(-1, *self.images.shape[2:])
        masks, visible = (
            x if x is None else x.reshape(len(images), -1) for x in (self.masks, self.visible)
        )
        return Crops(images, masks, visible, self.group)


def views_of(role: Role, batch: Batch) -> list[Views]:
    """The groups of a batch that a role sees, see `make_train_step`, as far as they exist."""
    views = []
    for group in role.sees:
        if f"{group}_crops" in batch:
            masked = role.masked if group == MASKED_GROUP else "no"
            masks = batch.get("masks") if masked == "hide" else None
            visible = batch.get("visible") if masked == "drop" else None
            views.append(Views(group, batch[f"{group}_crops"], masks, visible))
    return views


def forward(
    role: Role,
    variables: Variables,
    batch: Batch,
    rng: jax.Array,
    views_apart: bool = False,
) -> tuple[Outputs, Callable[[], Variables]]:
    """Runs the network of a role over all its crops, in one pass of its backbone.

    Args:
      role: one that sees something.
      variables: variables of its network.
      batch: see `make_train_step`.
      rng: for stochastic depth, if the role has any.
      views_apart: runs the backbone once per view, so that BatchNorm sees each by itself.

    Returns:
      The outputs for the objectives, and a function that returns the statistics ({} or
      {"batch_stats": …}) once they have projected everything.
    """
    variables = gather_weights(role.network, variables)
    rngs = {"drop_path": rng} if role.draws else {}
    mutable = ["batch_stats"] if role.follow.by_batch else []
    bound = role.network.bind(variables, rngs=rngs, mutable=mutable)
    groups = views_of(role, batch)
    if views_apart:
        groups = [view for group in groups for view in group.apart()]
        features = [bound.encode_groups([view.merged()])[0] for view in groups]
    else:
        features = bound.encode_groups([group.merged() for group in groups])

    def statistics() -> Variables:
        return {name: tree for name, tree in bound.variables.items() if name != "params"}

    names = tuple(group.group for group in groups for _ in range(group.views))
    crops = [view.merged() for group in groups for view in group.apart()]
    inputs = tuple(Input(bound.normalize(each.images), each.visible) for each in crops)
    return Outputs(_split(groups, features), names, bound.project, inputs), statistics


def _split(
    groups: Sequence[Views], features: Sequence[Mapping[str, jax.Array]]
) -> tuple[dict[str, jax.Array], ...]:
    """Features of merged crops by view."""
    return tuple(
        {
            name: x.reshape(*group.images.shape[:2], *x.shape[1:])[:, view]
            for name, x in of_group.items()
        }
        for group, of_group in zip(groups, features, strict=True)
        for view in range(group.views)
    )
