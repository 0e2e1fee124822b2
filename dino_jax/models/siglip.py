"""The image tower of SigLIP (arXiv:2303.15343): no class token, an attention that pools patches."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from dino_jax.config.section import option
from dino_jax.models.attention import attend
from dino_jax.models.backbone import Features
from dino_jax.models.layers import (
    ACTIVATIONS,
    Dtype,
    Mlp,
    PatchEmbed,
    dense,
    layer_norm,
    linear_init,
)
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
    """The section `config.network.backbone` of SigLIP's image tower."""

    kind: str = option("siglip", "image tower of SigLIP (arXiv:2303.15343)")
    activation: str = option("tanh_gelu", "of the MLPs", among=ACTIVATIONS)
    norm_epsilon: float = option(
        1e-6, "added to the variance in every LayerNorm", above=0, at_most=1
    )


class AttentionPool(nn.Module):
    """One learned query looks at all tokens: y = attention(probe, x); y + mlp(norm(y)).

    The fields are those of `tower.TowerBlock`.
    """

    num_heads: int
    hidden_dim: int
    activation: str
    norm_epsilon: float
    dtype: Dtype = jnp.float32
    rounds: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, N, D] -> [B, D]."""
        batch, _, dim = x.shape
        probe = self.param("probe", linear_init, (1, 1, dim)).astype(self.dtype)
        inputs = {"query": jnp.broadcast_to(probe, (batch, 1, dim)), "key": x, "value": x}
        parts = [
            dense(dim, self.dtype, name, rounds=self.rounds)(tokens).reshape(
                batch, tokens.shape[1], self.num_heads, dim // self.num_heads
            )
            for name, tokens in inputs.items()
        ]
        y = dense(dim, self.dtype, "proj", rounds=self.rounds)(attend(*parts)[0])
        mlp = Mlp(
            self.hidden_dim,
            dtype=self.dtype,
            rounds=self.rounds,
            activation=self.activation,
            name="mlp",
        )
        return (y + mlp(layer_norm(self.dtype, self.norm_epsilon, "norm")(y)))[:, 0]


class SiglipVision(ImageTower, nn.Module):
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
    activation: str
    norm_epsilon: float
    dtype: Dtype = jnp.float32
    rounds: bool = False

    @property
    def embed_dim(self) -> int:
        """D, that of the tokens: there is no projection."""
        return self.width

    @nn.compact
    def __call__(self, images: jax.Array) -> Features:
        """Features.

        Returns:
          {"cls": [B, D] what the pooling attention gives, in the space that texts share;
          "patches": [B, N, D] after the final norm, which are not in it}.
        """
        embed = PatchEmbed(
            self.patch_size, self.width, self.dtype, rounds=self.rounds, name="patch_embed"
        )
        rows, columns = self.implicit.grid or (0, 0)
        size = images.shape[1], images.shape[2]
        table = self.param("pos_embed", linear_init, (1, rows * columns, self.width))
        positions = positions_for(table, self.image_size, self.patch_size, size)
        x = run_blocks(self, embed(images) + positions.astype(self.dtype))
        x = layer_norm(self.dtype, self.norm_epsilon, "norm")(x)
        fields = (self.num_heads, self.hidden_dim, self.activation, self.norm_epsilon)
        pool = AttentionPool(*fields, self.dtype, self.rounds, name="pool")
        return {"cls": pool(x), "patches": x}


def build(config: Config, dtype: Dtype) -> SiglipVision:
    """Builds the tower.

    Raises:
      ValueError: if options do not fit together.
    """
    return SiglipVision(**tower_fields(config), dtype=dtype)
