"""Projection head of DINO (arXiv:2104.14294, Section 3.1 and Appendix C)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dino_jax.models.layers import (
    BatchNorm,
    Dtype,
    dense,
    l2_normalize,
    matmul_precision,
    uniform_init,
)


class Prototypes(nn.Module):
    """Weight-normalised linear layer without bias (arXiv:1602.07868): w_k = gain_k * v_k / ||v_k||.

    The prototypes are stored [K, d] and normalised along the minor axis: any other layout makes
    this layer many times slower. The gain exists only when it is trained; otherwise it is 1.
    """

    out_dim: int
    train_gain: bool
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., d] -> [..., K] float32 logits."""
        dim = x.shape[-1]
        prototypes = self.param("prototypes", uniform_init(dim), (self.out_dim, dim))
        weights = prototypes / jnp.linalg.norm(prototypes, axis=-1, keepdims=True)
        if self.train_gain:
            weights = weights * self.param("gain", nn.initializers.ones, (self.out_dim, 1))
        return jnp.einsum(
            "...d,kd->...k",
            x.astype(self.dtype),
            weights.astype(self.dtype),
            precision=matmul_precision(self.dtype),
            preferred_element_type=jnp.float32,
        )


class DinoHead(nn.Module):
    """MLP, L2-normalised bottleneck, weight-normalised prototypes.

    Attributes:
      out_dim: K, number of prototypes.
      hidden_dim: width of the hidden layers.
      bottleneck_dim: d, width before the prototypes.
      layers: linear layers of the MLP, at least 1; GELU (erf) between them.
      batch_norm: BatchNorm after each hidden layer, over all views together.
      train_gain: train the gains of the last layer (official norm_last_layer=False).
      dtype: of the activations; parameters, normalisation and logits are float32.
    """

    out_dim: int
    hidden_dim: int
    bottleneck_dim: int
    layers: int
    batch_norm: bool
    train_gain: bool
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., K] float32 logits."""
        for index in range(self.layers - 1):
            x = dense(self.hidden_dim, self.dtype, name=f"linear_{index}")(x)
            if self.batch_norm:
                x = BatchNorm(dtype=self.dtype, name=f"norm_{index}")(x)
            x = nn.gelu(x, approximate=False)
        x = dense(self.bottleneck_dim, self.dtype, name=f"linear_{self.layers - 1}")(x)
        return Prototypes(self.out_dim, self.train_gain, self.dtype, name="last_layer")(
            l2_normalize(x)
        )
