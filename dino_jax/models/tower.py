"""What the image and text towers of CLIP and SigLIP share: plain pre-norm blocks and positions.

Unlike `block.Block` they are never trained here: no stochastic depth, no kernels of a mesh.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dino_jax.config.range import MOST_SIDE, MOST_WIDTH
from dino_jax.config.section import option
from dino_jax.models.attention import Attend, Attention, attend
from dino_jax.models.backbone import ImplicitSettings, OneBlock
from dino_jax.models.layers import Dtype, Mlp, layer_norm
from dino_jax.models.position import Grid, resize_position_embedding


@dataclass(frozen=True)
class ImageTowerConfig:
    """Options that both image towers have; the defaults are those of B/16."""

    width: int = option(768, "of the tokens", at_least=1, at_most=MOST_WIDTH)
    layers: int = option(12, "number of blocks", at_least=1, at_most=1000)
    num_heads: int = option(12, "attention heads", at_least=1, at_most=MOST_WIDTH)
    hidden_dim: int = option(3072, "hidden width of the MLPs", at_least=1, at_most=MOST_WIDTH)
    patch_size: int = option(16, "side of a patch in pixels", at_least=1, at_most=MOST_SIDE)
    image_size: tuple[int, int] = option(
        (224, 224),
        "(height, width) of the position table; it is resampled for others",
        at_least=1,
        at_most=MOST_SIDE,
    )
    in_channels: int = option(3, "channels of an image", at_least=1, at_most=1000)


def check_tower(where: str, config: Any) -> None:
    """Checks that the options of a tower fit together.

    Raises:
      ValueError: if they do not.
    """
    if config.width % config.num_heads:
        raise ValueError(
            f"{where}.width ({config.width}) must be a multiple of num_heads ({config.num_heads})"
        )
    if min(getattr(config, "image_size", (1,))) < getattr(config, "patch_size", 1):
        raise ValueError(
            f"{where}.image_size {config.image_size} is smaller than one patch of "
            f"{config.patch_size} pixels"
        )


def tower_fields(config: ImageTowerConfig) -> dict[str, Any]:
    """Fields of an image tower by its section.

    Raises:
      ValueError: if options do not fit together.
    """
    check_tower("config.network.backbone", config)
    given = dataclasses.asdict(config) | {"image_size": tuple(config.image_size)}
    del given["kind"]
    return given


class ImageTower(OneBlock):
    """The part of the protocol `Backbone` that is the same for both image towers."""

    @property
    def implicit(self: Any) -> ImplicitSettings:
        """Settings that the shapes of its weights do not show."""
        grid = (self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size)
        return ImplicitSettings(
            grid, self.image_size, self.num_heads, "bicubic_plain", self.norm_epsilon
        )


class TowerBlock(nn.Module):
    """x += attention(norm1(x)); x += mlp(norm2(x)).

    Attributes:
      num_heads: attention heads.
      hidden_dim: of the MLP.
      activation: a key of `layers.ACTIVATIONS`.
      norm_epsilon: added to the variance in both LayerNorms.
      attend: which tokens see which.
      dtype: dtype of the activations.
      rounds: whether the operands of products are rounded, see `products`.
    """

    num_heads: int
    hidden_dim: int
    activation: str
    norm_epsilon: float
    attend: Attend = attend
    dtype: Dtype = jnp.float32
    rounds: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, N, D] -> [B, N, D]."""
        attention = Attention(
            self.num_heads, dtype=self.dtype, rounds=self.rounds, name="attention"
        )
        norm1 = layer_norm(self.dtype, self.norm_epsilon, "norm1")
        x = x + attention(norm1(x), self.attend)[0]
        mlp = Mlp(
            self.hidden_dim,
            dtype=self.dtype,
            rounds=self.rounds,
            activation=self.activation,
            name="mlp",
        )
        return x + mlp(layer_norm(self.dtype, self.norm_epsilon, "norm2")(x))


def run_blocks(module: Any, tokens: jax.Array, attend: Attend = attend) -> jax.Array:
    """Runs all blocks of a tower, whose parameters have one leading depth axis.

    Call it in a compact method.

    Args:
      module: with layers and the fields of `TowerBlock`.
      tokens: [B, N, D].
      attend: which tokens see which.
    """
    fields = (module.num_heads, module.hidden_dim, module.activation, module.norm_epsilon)
    scan: Callable[..., Any] = nn.scan(
        lambda block, x, _: (block(x), None),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        length=module.layers,
    )
    block = TowerBlock(*fields, attend, module.dtype, module.rounds, name="blocks")
    return scan(block, tokens, None)[0]


def positions_for(table: jax.Array, table_size: Grid, patch_size: int, image_size: Grid) -> Any:
    """A position table for images of another size, bicubic without antialiasing.

    Args:
      table: [1, 1 + GH * GW, D], the class token's first, or [1, GH * GW, D] without one.
      table_size: (H, W) pixels for which it was made.
      patch_size: side of a patch in pixels.
      image_size: (H, W) of the images in pixels.

    Returns:
      [1, 1 + h * w, D] or [1, h * w, D].
    """
    table_grid, grid = (
        (size[0] // patch_size, size[1] // patch_size) for size in (table_size, image_size)
    )
    without_class = table.shape[1] == table_grid[0] * table_grid[1]
    if without_class:
        table = jnp.pad(table, ((0, 0), (1, 0), (0, 0)))
    resized = resize_position_embedding(table, table_grid, grid, image_size, "bicubic_plain")
    return resized[:, 1:] if without_class else resized
