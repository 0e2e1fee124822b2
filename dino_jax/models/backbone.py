"""The protocol that every backbone follows."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax

from dino_jax.devices.kernels.shared_weights import SharedWeights
from dino_jax.models.crops import Crops
from dino_jax.models.position import Grid
from dino_jax.models.rope import Config as Rope

Features = dict[str, jax.Array]


class ImplicitSettings(NamedTuple):
    """Settings that change the features although no shape of a weight shows them.

    None where unknown, or if the network has no such setting.

    Attributes:
      grid: (GH, GW) patches of the position table.
      image_size: (H, W) pixels for which the table was made.
      num_heads: attention heads.
      position_kernel: kernel with which the table is resampled, a key of
        `position.POSITION_KERNELS`.
      norm_epsilon: epsilon of the LayerNorms.
      rope: how queries and keys turn when nothing is drawn; None: they do not.
      key_bias: whether the bias of the keys counts.
    """

    grid: Grid | None = None
    image_size: Grid | None = None
    num_heads: int | None = None
    position_kernel: str | None = None
    norm_epsilon: float | None = None
    rope: Rope | None = None
    key_bias: bool | None = None


class Backbone(Protocol):
    """A Flax module that maps normalized images to features.

    Features are {"cls": [B, D], "patches": [B, N, D]} and what else a backbone has, such as the
    registers of a ViT.

    Attributes:
      embed_dim: D, width of its features.
      patch_size: pixels along one axis that one of its patches stands for.
      in_channels: channels of an image.
      depth: number of blocks whose features `intermediate` gives.
      has_attention: whether `attention` gives weights.
      has_mask_token: whether it takes `Crops.masks`.
      drops_patches: whether it takes `Crops.visible`.
      row_wise: whether it treats every image on its own, so that each device of a mesh runs it on
        its own images; it then gathers split weights itself, as `on_devices` told it.
      implicit: settings that the shapes of its weights do not show.
    """

    has_attention: bool
    has_mask_token: bool
    drops_patches: bool
    row_wise: bool

    @property
    def embed_dim(self) -> int: ...

    @property
    def patch_size(self) -> int: ...

    @property
    def in_channels(self) -> int: ...

    @property
    def depth(self) -> int: ...

    @property
    def implicit(self) -> ImplicitSettings: ...

    def encode_groups(self, groups: Sequence[Crops]) -> list[Features]:
        """Features of crops of several sizes."""
        ...

    def intermediate(
        self, images: jax.Array, layers: Sequence[int], normalize: bool = True
    ) -> tuple[Features, ...]:
        """Features after the given blocks (negative: from the end).

        Args:
          images: [B, H, W, C] normalized.
          layers: indices of blocks.
          normalize: whether they go through the final norm, if there is one.
        """
        ...

    def attention(self, images: jax.Array, layer: int = -1) -> jax.Array:
        """[B, H, W, C] -> [B, heads, T, T] attention weights of one block, cls token first."""
        ...

    def on_devices(self, device: Any, weights: SharedWeights | None) -> "Backbone":
        """The same backbone in its fastest form for these devices.

        Args:
          device: one of them.
          weights: how they share weights; None: a single device without kernels.
        """
        ...


class OneBlock:
    """The part of the protocol that is the same for all backbones without blocks and tokens.

    Derive from it and `nn.Module`, and map images to features in `__call__`.
    """

    depth = 1
    has_attention = False
    has_mask_token = False
    drops_patches = False
    row_wise = False
    implicit = ImplicitSettings()

    def encode_groups(self: Any, groups: Sequence[Crops]) -> list[Features]:
        """Features of crops of several sizes, one after another.

        Raises:
          ValueError: if patches are to be hidden or left out.
        """
        for crops in groups:
            if crops.masks is not None:
                raise ValueError(f"a {type(self).__name__} has no mask token to hide patches with")
            if crops.visible is not None:
                raise ValueError(f"a {type(self).__name__} cannot leave patches out; a ViT can")
        return [self(crops.images) for crops in groups]

    def intermediate(
        self: Any, images: jax.Array, layers: Sequence[int], normalize: bool = True
    ) -> tuple[Features, ...]:
        """Its features, for layers (-1,).

        Raises:
          ValueError: for other layers.
        """
        if tuple(layers) not in ((-1,), (0,)):
            raise ValueError(
                f"a {type(self).__name__} gives the features of its last layer only, use layers "
                f"(-1,) instead of {tuple(layers)}"
            )
        return (self(images),)

    def attention(self, images: jax.Array, layer: int = -1) -> jax.Array:
        """Raises a ValueError: there is none."""
        raise ValueError(f"a {type(self).__name__} has no attention weights; a ViT has")

    def on_devices(self, device: Any, weights: SharedWeights | None) -> Any:
        """Itself: it leaves the devices to XLA."""
        return self
