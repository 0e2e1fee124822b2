"""Vision Transformer (arXiv:2010.11929) of DINO (arXiv:2104.14294) and DINOv2 (arXiv:2304.07193).

Any patch and image size; register tokens as in arXiv:2309.16588.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dino_jax.devices.kernels.branches import Branches, kernel_memory, pad_tokens
from dino_jax.devices.kernels.shared_weights import SharedWeights
from dino_jax.models.backbone import Features, ImplicitSettings
from dino_jax.models.block import Block, Groups
from dino_jax.models.crops import Crops
from dino_jax.models.gpu_attention import takes_cudnn
from dino_jax.models.layers import Dtype, PatchEmbed, layer_norm
from dino_jax.models.position import Grid, init_positions, resize_position_embedding
from dino_jax.models.stem import ConvolutionStem
from dino_jax.models.stochastic_depth import choose_subsets, drop_rates

# Activations of a block that the backward pass keeps; the rest is computed again.
REMAT_POLICIES = {
    "none": jax.checkpoint_policies.everything_saveable,
    "names": jax.checkpoint_policies.save_only_these_names(
        "qkv", "attention", "residual", "hidden"
    ),
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Encoded(NamedTuple):
    """Everything that one pass can return; T = 1 + R + N tokens: cls, registers, patches.

    Attributes:
      tokens: [B, T, D] after the final LayerNorm.
      layers: [L, B, T, D] tokens after the requested blocks, before the final LayerNorm.
      attention: [A, B, H, T, T] attention weights of the requested blocks.
    """

    tokens: jax.Array
    layers: jax.Array
    attention: jax.Array


class VisionTransformer(nn.Module):
    """Maps [B, H, W, C] normalized images to cls, register and patch tokens.

    Blocks are scanned: each of their parameters has one leading depth axis. Stochastic depth is
    active while the caller provides a "drop_path" RNG. The options are those of `vit.Config`, which
    explains them; embed_dim (D), depth and num_heads are always given here, and drop_path_group
    must divide the samples of every call.

    Attributes:
      dtype: dtype of the activations; parameters are float32.
      by_cudnn: attention by cuDNN, see `on_devices`.
      branches: kernels for sequences that they take, see `on_devices`.
    """

    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int
    image_size: Grid
    in_channels: int = 3
    mlp_ratio: float = 4.0
    ffn: str = "mlp"
    layer_scale: float = 0.0
    registers: int = 0
    has_mask_token: bool = False
    token_std: float = 0.02
    qkv_bias: bool = True
    proj_bias: bool = True
    ffn_bias: bool = True
    norm_epsilon: float = 1e-6
    drop_path_rate: float = 0.0
    drop_path_schedule: str = "linear"
    drop_path_kind: str = "per_sample"
    drop_path_group: int | None = None
    position_kernel: str = "bicubic"
    position: str = "learned"
    first_kernels: str = "normal"
    stem: str = "patches"
    dtype: Dtype = jnp.float32
    remat: str = "none"
    scan_unroll: int = 1
    rounds: bool = False
    by_cudnn: bool = False
    branches: Branches | None = None

    has_attention = True
    drops_patches = True

    @property
    def row_wise(self) -> bool:
        """BatchNorm in a stem of convolutions looks at all images."""
        return self.stem == "patches"

    @property
    def table_grid(self) -> Grid:
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def implicit(self) -> ImplicitSettings:
        """Settings that the shapes of its weights do not show."""
        return ImplicitSettings(
            grid=self.table_grid,
            image_size=self.image_size,
            num_heads=self.num_heads,
            position_kernel=self.position_kernel,
            norm_epsilon=self.norm_epsilon,
        )

    def on_devices(self, device: Any, weights: SharedWeights | None) -> "VisionTransformer":
        """The same ViT in its fastest form for these devices; see `Backbone.on_devices`.

        The kernels multiply in bfloat16: a ViT that computes in float32 is left to XLA.
        """
        # Inside a loop the TPU compiler stores everything for the backward pass, layer by layer,
        # before it continues; without one it chooses. CPUs are faster with loops; GPUs unknown.
        fastest = self.depth if device.platform == "tpu" else 1
        by_cudnn = takes_cudnn(device, self.dtype, self.embed_dim // self.num_heads)
        vit = self.clone(scan_unroll=self.scan_unroll or fastest, by_cudnn=by_cudnn)
        if weights is None or not self.row_wise:
            return vit
        memory = kernel_memory(device) if self.dtype == jnp.bfloat16 else 0
        return vit.clone(branches=Branches(weights, self.norm_epsilon, memory))

    def setup(self):
        dim, patch = self.embed_dim, self.patch_size
        token_init = nn.initializers.normal(self.token_std)
        if self.stem == "patches":
            self.patch_embed = PatchEmbed(patch, dim, self.dtype, self.first_kernels, self.rounds)
        else:
            self.patch_embed = ConvolutionStem(dim, self.dtype)
        self.cls_token = self.param("cls_token", token_init, (1, 1, dim))
        shape = (1, 1 + self.table_grid[0] * self.table_grid[1], dim)
        self.pos_embed = self.param(
            "pos_embed", init_positions(self.position, self.table_grid), shape
        )
        if self.registers:
            shape = (1, self.registers, dim)
            self.register_tokens = self.param("register_tokens", token_init, shape)
        if self.has_mask_token:
            self.mask_token = self.param("mask_token", nn.initializers.zeros, (1, dim))
        block = Block
        if self.remat != "none":
            # XLA cannot merge what is computed again across loops, so the barrier against that is
            # needed only when fully unrolled.
            block = nn.remat(
                Block,
                policy=REMAT_POLICIES[self.remat],
                prevent_cse=self.scan_unroll >= self.depth,
                static_argnums=4,
            )
        self.blocks = block(
            dim=dim,
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
            ffn=self.ffn,
            layer_scale=self.layer_scale,
            qkv_bias=self.qkv_bias,
            proj_bias=self.proj_bias,
            ffn_bias=self.ffn_bias,
            norm_epsilon=self.norm_epsilon,
            first_kernels=self.first_kernels,
            dtype=self.dtype,
            rounds=self.rounds,
            by_cudnn=self.by_cudnn,
            branches=self.branches
            and self.branches.of_layers(self.depth, gather_again=self.remat == "none"),
        )
        self.norm = layer_norm(self.dtype, self.norm_epsilon)

    def __call__(
        self,
        images: jax.Array,
        masks: jax.Array | None = None,
        visible: jax.Array | None = None,
    ) -> Features:
        """Features of crops of one size; arguments as the fields of `Crops`.

        Returns:
          {"cls": [B, D], "patches": [B, N, D], or [B, k, D] of the visible ones} and "registers":
          [B, R, D] if there are any, after the final LayerNorm.
        """
        return self.encode_groups([Crops(images, masks, visible)])[0]

    def encode_groups(self, groups: Sequence[Crops]) -> list[Features]:
        """Features of crops of several sizes, in one pass over the blocks.

        A layer's weights are used for all of them before the next layer's: they are cast and, if
        they are split, gathered once, and their gradients are reduced once.
        """
        tokens = tuple(map(self._embed_on_devices, groups))
        counts = tuple(x.shape[1] for x in tokens)
        if self.branches is not None and self.branches.take_attention(self.embed_dim, counts):
            tokens = tuple(map(pad_tokens, tokens))
        kept = [self._kept_samples(crops.images.shape[0]) for crops in groups]

        def run_block(block: Block, tokens: Groups, inputs):
            tokens, _ = block(tokens, inputs["drop_rate"], inputs["kept"], counts)
            return tokens, None

        tokens, _ = self._scan(run_block, tokens, {"drop_rate": self._drop_rates(), "kept": kept})
        return [
            self._split(self.norm(x[:, :count])) for x, count in zip(tokens, counts, strict=True)
        ]

    def intermediate(
        self, images: jax.Array, layers: Sequence[int], normalize: bool = True
    ) -> tuple[Features, ...]:
        """Features after the given blocks (negative: from the end), through the final LayerNorm."""
        outputs = self.encode(images, layers=layers).layers
        return tuple(self._split(self.norm(x) if normalize else x) for x in outputs)

    def attention(self, images: jax.Array, layer: int = -1) -> jax.Array:
        """[B, H, W, C] -> [B, heads, T, T] attention weights of one block.

        Row 0 is the cls token, rows 1 to R the registers, the rest the patches.
        """
        return self.encode(images, attention=(layer,)).attention[0]

    def encode(
        self, images: jax.Array, layers: Sequence[int] = (), attention: Sequence[int] = ()
    ) -> Encoded:
        """Runs all blocks and keeps the outputs of the given block indices."""
        tokens = self.embed(images)
        batch, count, dim = tokens.shape
        weights_shape = (len(attention), batch, self.num_heads, count, count)
        kept = {
            "layers": jnp.zeros((len(layers), batch, count, dim), tokens.dtype),
            "attention": jnp.zeros(weights_shape, jnp.float32),
        }
        slots = {
            "layers": jnp.asarray(_slots(layers, self.depth)),
            "attention": jnp.asarray(_slots(attention, self.depth)),
        }

        def run_block(block: Block, carry, inputs):
            tokens, kept = carry
            (tokens,), (weights,) = block((tokens,), None, None, None)
            # A block that was not requested has a slot past the end: its write is dropped.
            if layers:
                kept["layers"] = kept["layers"].at[inputs["layers"]].set(tokens, mode="drop")
            if attention:
                slot = inputs["attention"]
                kept["attention"] = kept["attention"].at[slot].set(weights, mode="drop")
            return (tokens, kept), None

        (tokens, kept), _ = self._scan(run_block, (tokens, kept), slots)
        return Encoded(self.norm(tokens), kept["layers"], kept["attention"])

    def _scan(self, run_block, carry, per_block):
        """Runs `run_block(block, carry, inputs)` for all blocks."""
        scan = nn.scan(
            run_block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "drop_path": True},
            length=self.depth,
            unroll=max(1, self.scan_unroll),
        )
        return scan(self.blocks, carry, per_block)

    def embed(
        self,
        images: jax.Array,
        masks: jax.Array | None = None,
        visible: jax.Array | None = None,
    ) -> jax.Array:
        """[B, H, W, C] -> [B, T, D] tokens with positions; a part of a patch is cut off.

        Masked patches have a position; registers have none. Of the patches only those that are
        visible become tokens.
        """
        batch, height, width, _ = images.shape
        grid = (height // self.patch_size, width // self.patch_size)
        patches = self.patch_embed(images)
        if masks is not None:
            self._check_masks(masks, patches)
            patches = jnp.where(masks[..., None], self.mask_token.astype(self.dtype), patches)
        positions = resize_position_embedding(
            self.pos_embed, self.table_grid, grid, (height, width), self.position_kernel
        ).astype(self.dtype)
        tokens = jnp.concatenate([self._repeat(self.cls_token, batch), patches], axis=1) + positions
        if visible is not None:
            patches = tokens[:, 1:]
            self._check_visible(visible, patches)
            kept = jnp.take_along_axis(patches, visible[..., None], axis=1)
            tokens = jnp.concatenate([tokens[:, :1], kept], axis=1)
        if not self.registers:
            return tokens
        registers = self._repeat(self.register_tokens, batch)
        return jnp.concatenate([tokens[:, :1], registers, tokens[:, 1:]], axis=1)

    def _embed_on_devices(self, crops: Crops) -> jax.Array:
        """`embed`, every device for its crops."""
        if self.branches is None:
            return self.embed(*crops)
        params = {k: v for k, v in self.variables["params"].items() if k not in ("blocks", "norm")}
        alone = self.clone(parent=None, name=None, branches=None)

        def embed(params: Any, *arguments: jax.Array) -> Any:
            return alone.apply({"params": params}, *arguments, method="embed")

        embedded = self.branches.weights.run(embed, params, tuple(crops), self.dtype)
        return embedded[: len(crops.images)]

    def _repeat(self, token: jax.Array, batch: int) -> jax.Array:
        return jnp.broadcast_to(token, (batch, *token.shape[1:])).astype(self.dtype)

    def _check_masks(self, masks: jax.Array, patches: jax.Array) -> None:
        if not self.has_mask_token:
            raise ValueError("masks need network.backbone.has_mask_token=True")
        if masks.shape != patches.shape[:2] or masks.dtype != bool:
            raise ValueError(
                f"masks must be bool {patches.shape[:2]} (images, patches), "
                f"got {masks.dtype} {masks.shape}"
            )

    def _check_visible(self, visible: jax.Array, patches: jax.Array) -> None:
        batch, count = patches.shape[:2]
        fits = visible.ndim == 2 and len(visible) == batch and visible.shape[1] <= count
        if not fits or visible.dtype != jnp.int32:
            raise ValueError(
                f"visible must be int32 [{batch} images, up to {count} patches], "
                f"got {visible.dtype} {visible.shape}"
            )

    def _split(self, tokens: jax.Array) -> Features:
        cls, registers, patches = jnp.split(tokens, (1, 1 + self.registers), axis=1)
        features = {"cls": cls[:, 0], "patches": patches}
        return features | ({"registers": registers} if self.registers else {})

    def _drop_rates(self) -> jax.Array | None:
        """[depth] rates for blocks that drop per sample; None: they do not."""
        per_sample = self.drop_path_kind == "per_sample" and self.has_rng("drop_path")
        if not per_sample or not self.drop_path_rate:
            return None
        return jnp.asarray(drop_rates(self.drop_path_schedule, self.drop_path_rate, self.depth))

    def _kept_samples(self, batch: int) -> jax.Array | None:
        """[depth, 2, G, k] samples that the branches run on; None: all of them."""
        subsets = self.drop_path_kind == "subset" and self.has_rng("drop_path")
        if not subsets or not self.drop_path_rate:
            return None
        rng, group = self.make_rng("drop_path"), self.drop_path_group or batch
        return choose_subsets(rng, batch, self.depth, group, self.drop_path_rate)


def _slots(chosen: Sequence[int], depth: int) -> np.ndarray:
    """[depth] position of every block in `chosen`; len(chosen) for the others.

    Raises:
      ValueError: if a block index is out of range or named twice.
    """
    blocks = [index + depth if index < 0 else index for index in chosen]
    if any(not 0 <= index < depth for index in blocks) or len(set(blocks)) < len(blocks):
        raise ValueError(
            f"blocks {tuple(chosen)} must be different indices in [-{depth}, {depth}) of a model "
            f"with {depth} blocks"
        )
    slots = np.full(depth, len(blocks), np.int32)
    slots[blocks] = np.arange(len(blocks))
    return slots
