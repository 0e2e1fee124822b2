"""The stem of convolutions in front of a ViT's blocks (arXiv:2106.14881) as in MoCo v3."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dino_jax.models.layers import BatchNorm, Dtype, matmul_precision, uniform_init

HALVINGS = 4  # convolutions of stride 2
STEM_PATCH = 2**HALVINGS  # pixels of an image per token along one axis


class ConvolutionStem(nn.Module):
    """Four 3x3 convolutions of stride 2 with BatchNorm and ReLU, and a 1x1 convolution.

    They have D/8, D/4, D/2, D and D channels; only the last one has a bias.

    Attributes:
      embed_dim: D, a multiple of 8.
      dtype: dtype of the activations; parameters and statistics are float32.
    """

    embed_dim: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, N, D] row by row; pixels beyond the last whole patch are cut off."""
        batch, height, width, _ = images.shape
        rows, columns = height // STEM_PATCH, width // STEM_PATCH
        x = images[:, : rows * STEM_PATCH, : columns * STEM_PATCH]
        for index in range(HALVINGS):
            x = self._convolution(index, self.embed_dim >> (HALVINGS - 1 - index), 3, 2, x)
            x = nn.relu(BatchNorm(dtype=self.dtype, name=f"norm_{index}")(x))
        x = self._convolution(HALVINGS, self.embed_dim, 1, 1, x)
        return x.reshape(batch, rows * columns, self.embed_dim)

    def _convolution(
        self, index: int, width: int, kernel: int, stride: int, x: jax.Array
    ) -> jax.Array:
        first = uniform_init(kernel * kernel * x.shape[-1])  # torch's default
        convolution = nn.Conv(
            width,
            (kernel, kernel),
            strides=stride,
            padding=kernel // 2,
            use_bias=kernel == 1,
            dtype=self.dtype,
            kernel_init=first,
            bias_init=first,
            precision=matmul_precision(self.dtype),
            name=f"conv_{index}",
        )
        return convolution(x)
