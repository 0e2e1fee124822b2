"""The text towers of CLIP (arXiv:2103.00020) and SigLIP (arXiv:2303.15343)."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dino_jax.config.range import MOST_WIDTH
from dino_jax.config.section import option
from dino_jax.models.attention import attend, attend_causally
from dino_jax.models.layers import (
    ACTIVATIONS,
    Dtype,
    dense,
    l2_normalize,
    layer_norm,
    linear_init,
)
from dino_jax.models.tower import check_tower, run_blocks

MOST_TOKENS = 1 << 22  # of a vocabulary
MOST_LENGTH = 1 << 12  # of a text


def _at_end(ids: jax.Array, end_token: int) -> jax.Array:
    """The first end token; position 0 without one."""
    return jnp.argmax(ids == end_token, axis=1)


def _at_largest(ids: jax.Array, end_token: int) -> jax.Array:
    """The largest id, which is the end token of OpenAI's vocabulary."""
    del end_token
    return jnp.argmax(ids, axis=1)


def _at_last(ids: jax.Array, end_token: int) -> jax.Array:
    del end_token
    return jnp.full(len(ids), ids.shape[1] - 1)


# Where the feature of a text is read: [B, N] ids and the end token -> [B] positions.
POOLINGS = {"end": _at_end, "largest": _at_largest, "last": _at_last}


@dataclass(frozen=True)
class Config:
    """The section `text` of an import: a tower that reads texts; the defaults are CLIP's B/16."""

    embed_dim: int = option(512, "width of the features", at_least=1, at_most=MOST_WIDTH)
    width: int = option(512, "of the tokens", at_least=1, at_most=MOST_WIDTH)
    layers: int = option(12, "number of blocks", at_least=1, at_most=1000)
    num_heads: int = option(8, "attention heads", at_least=1, at_most=MOST_WIDTH)
    hidden_dim: int = option(2048, "hidden width of the MLPs", at_least=1, at_most=MOST_WIDTH)
    vocabulary: int = option(49408, "number of token ids", at_least=1, at_most=MOST_TOKENS)
    length: int = option(77, "most tokens of a text", at_least=1, at_most=MOST_LENGTH)
    activation: str = option("quick_gelu", "of the MLPs", among=ACTIVATIONS)
    norm_epsilon: float = option(1e-5, "of the LayerNorms", above=0, at_most=1)
    causal: bool = option(True, "tokens see only those before them (CLIP)")
    pooling: str = option(
        "end", "end (first end token) | largest (id; old files) | last (SigLIP)", among=POOLINGS
    )
    end_token: int = option(49407, "id of the end of a text", at_least=0, at_most=MOST_TOKENS)
    pad_token: int = option(49407, "id that fills texts up", at_least=0, at_most=MOST_TOKENS)
    projection_bias: bool = option(False, "of the last layer (SigLIP)")
    logit_bias: bool = option(False, "has a learned offset of the logits (SigLIP)")


class TextTower(nn.Module):
    """Maps token ids to vectors that lie beside those of images; fields as in `Config`."""

    embed_dim: int
    width: int
    layers: int
    num_heads: int
    hidden_dim: int
    vocabulary: int
    length: int
    activation: str
    norm_epsilon: float
    causal: bool
    pooling: str
    end_token: int
    projection_bias: bool
    logit_bias: bool
    dtype: Dtype = jnp.float32
    rounds: bool = False

    @nn.compact
    def tokens(self, ids: jax.Array) -> jax.Array:
        """[B, N] int32 ids, N up to `length` -> [B, N, width] after the final norm."""
        table = self.param("token_embed", linear_init, (self.vocabulary, self.width))
        positions = self.param("pos_embed", linear_init, (self.length, self.width))
        x = (jnp.take(table, ids, axis=0) + positions[: ids.shape[1]]).astype(self.dtype)
        x = run_blocks(self, x, attend_causally if self.causal else attend)
        return layer_norm(self.dtype, self.norm_epsilon, "norm")(x)

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        """[B, N] int32 ids -> [B, embed_dim]; SigLIP's must be padded to `length`."""
        x, places = self.tokens(ids), POOLINGS[self.pooling](ids, self.end_token)
        pooled = jnp.take_along_axis(x, places[:, None, None], axis=1)[:, 0]
        bias = self.projection_bias
        return dense(self.embed_dim, self.dtype, "projection", use_bias=bias)(pooled)

    @nn.compact
    def logits(self, texts: jax.Array, images: jax.Array) -> jax.Array:
        """[B, D] and [M, D] features -> [B, M] logits: scaled cosines, and SigLIP's offset."""
        scale = self.param("logit_scale", nn.initializers.zeros, ())
        cosines = l2_normalize(texts) @ l2_normalize(images).T
        logits = jnp.exp(scale) * cosines
        if not self.logit_bias:
            return logits
        return logits + self.param("logit_bias", nn.initializers.zeros, ())

    def init_all(self, ids: jax.Array) -> None:
        """Touches every parameter; call as `tower.init(rng, ids, method="init_all")`."""
        texts = self(ids)
        self.logits(texts, texts)


def build_text(config: Config, dtype: Dtype = jnp.float32) -> TextTower:
    """Builds the tower.

    Raises:
      ValueError: if options do not fit together.
    """
    check_tower("text", config)
    given: dict[str, Any] = dataclasses.asdict(config)
    del given["pad_token"]  # of the tokenizer
    return TextTower(**given, dtype=dtype)
