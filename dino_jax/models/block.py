"""The transformer block of the ViT."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from dino_jax.models.layers import FFNS, Attention, Dtype, LayerScale, layer_norm
from dino_jax.models.stochastic_depth import add_subset, drop_path, take_subset


class Block(nn.Module):
    """Pre-norm transformer block: x += ls1(attention(norm1(x))); x += ls2(ffn(norm2(x))).

    Attributes:
      num_heads: attention heads.
      mlp_ratio: hidden width of the MLP over D.
      ffn: a key of `FFNS`.
      layer_scale: first value of the factors of both branches; 0 for no factors.
      qkv_bias: bias of the queries, keys and values.
      proj_bias: bias of the output of the attention.
      ffn_bias: biases of the FFN.
      norm_epsilon: added to the variance in both LayerNorms.
      dtype: of the activations.
    """

    num_heads: int
    mlp_ratio: float
    ffn: str = "mlp"
    layer_scale: float = 0.0
    qkv_bias: bool = True
    proj_bias: bool = True
    ffn_bias: bool = True
    norm_epsilon: float = 1e-6
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, drop_rate: jax.Array | None = None, kept: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Moves the tokens through one layer.

        Args:
          x: [B, N, D] tokens.
          drop_rate: scalar, probability of dropping a sample's branch; draws from the "drop_path"
            RNG. None: no sample is dropped.
          kept: [2, G, k] samples of each group that the attention and the FFN run on, as
            `stochastic_depth.take_subset` takes them. None: all samples.

        Returns:
          [B, N, D] tokens and [B, H, N, N] attention weights (of the kept samples only).
        """
        attention = Attention(
            self.num_heads, self.qkv_bias, self.proj_bias, self.dtype, name="attention"
        )
        ffn = FFNS[self.ffn](
            int(x.shape[-1] * self.mlp_ratio), self.ffn_bias, self.dtype, name="mlp"
        )
        attention_rows, ffn_rows = (None, None) if kept is None else kept

        norm1 = layer_norm(self.dtype, self.norm_epsilon, name="norm1")
        branch = norm1(take_subset(x, attention_rows))
        branch, weights = attention(branch)
        x = self._add(x, self._scaled(branch, "layer_scale1"), drop_rate, attention_rows)
        x = checkpoint_name(x, "residual")

        norm2 = layer_norm(self.dtype, self.norm_epsilon, name="norm2")
        branch = ffn(norm2(take_subset(x, ffn_rows)))
        return self._add(x, self._scaled(branch, "layer_scale2"), drop_rate, ffn_rows), weights

    def _scaled(self, branch: jax.Array, name: str) -> jax.Array:
        return LayerScale(self.layer_scale, name=name)(branch) if self.layer_scale else branch

    def _add(
        self,
        x: jax.Array,
        branch: jax.Array,
        drop_rate: jax.Array | None,
        kept: jax.Array | None,
    ) -> jax.Array:
        if kept is not None:
            return add_subset(x, branch, kept)
        if drop_rate is not None:
            branch = drop_path(branch, drop_rate, self.make_rng("drop_path"))
        return x + branch
