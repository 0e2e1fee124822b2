"""The image tower of CLIP (arXiv:2103.00020, Section 2.4): a ViT with a norm before its blocks."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from dino_jax.config.range import MOST_WIDTH
from dino_jax.config.section import option
from dino_jax.models.backbone import Features
from dino_jax.models.layers import ACTIVATIONS, Dtype, PatchEmbed, dense, layer_norm, linear_init
from dino_jax.models.position import Grid
from dino_jax.models.tower import (
    ImageTower,
    ImageTowerConfig,
    positions_for,
    run_blocks,
    tower_fields,
)


@dataclass(frozen=True)
class Config(ImageTowerConfig):
    """The section `config.network.backbone` of CLIP's image tower."""

    kind: str = option("clip", "image tower of CLIP (arXiv:2103.00020)")
    embed_dim: int = option(
        512, "width of the features, which texts share", at_least=1, at_most=MOST_WIDTH
    )
    activation: str = option(
        "quick_gelu", "of the MLPs; OpenAI's have quick_gelu, most others gelu", among=ACTIVATIONS
    )
    norm_epsilon: float = option(
        1e-5, "added to the variance in every LayerNorm", above=0, at_most=1
    )


class ClipVision(ImageTower, nn.Module):
    """Maps [B, H, W, C] normalized images to vectors that lie beside those of texts.

    Blocks are scanned: each of their parameters has one leading axis. The fields are those of
    `Config`; other image sizes resample the positions.

    Attributes:
      dtype: dtype of the activations; parameters are float32.
      rounds: whether the operands of products are rounded, see `products`.
    """

    width: int
    layers: int
    num_heads: int
    hidden_dim: int
    patch_size: int
    image_size: Grid
    in_channels: int
    embed_dim: int
    activation: str
    norm_epsilon: float
    dtype: Dtype = jnp.float32
    rounds: bool = False

    @nn.compact
    def tokens(self, images: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, 1 + N, width] after the blocks, the class token first."""
        embed = PatchEmbed(
            self.patch_size,
            self.width,
            self.dtype,
            rounds=self.rounds,
            use_bias=False,
            name="patch_embed",
        )
        patches = embed(images)
        cls = self.param("cls_token", linear_init, (1, 1, self.width))
        rows, columns = self.implicit.grid or (0, 0)
        size = images.shape[1], images.shape[2]
        table = self.param("pos_embed", linear_init, (1, 1 + rows * columns, self.width))
        positions = positions_for(table, self.image_size, self.patch_size, size)
        cls = jnp.broadcast_to(cls, (images.shape[0], 1, self.width)).astype(self.dtype)
        x = jnp.concatenate([cls, patches], axis=1) + positions.astype(self.dtype)
        return run_blocks(self, layer_norm(self.dtype, self.norm_epsilon, "pre_norm")(x))

    @nn.compact
    def __call__(self, images: jax.Array) -> Features:
        """Features in the space that texts share.

        Returns:
          {"cls": [B, D], "patches": [B, N, D]}: the class token, and what the same final norm and
          projection make of the patch tokens, which CLIP does not train.
        """
        x = layer_norm(self.dtype, self.norm_epsilon, "norm")(self.tokens(images))
        project = dense(
            self.embed_dim, self.dtype, "projection", use_bias=False, rounds=self.rounds
        )
        x = project(x)
        return {"cls": x[:, 0], "patches": x[:, 1:]}


def build(config: Config, dtype: Dtype) -> ClipVision:
    """Builds the tower.

    Raises:
      ValueError: if options do not fit together.
    """
    return ClipVision(**tower_fields(config), dtype=dtype)
