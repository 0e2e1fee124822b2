"""Vision Transformer (arXiv:2010.11929) of DINO (arXiv:2104.14294) and DINOv2 (arXiv:2304.07193).

Any patch and image size; register tokens as in arXiv:2309.16588.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dino_jax.devices.kernels.branches import Branches, kernel_memory, pad_tokens
from dino_jax.devices.kernels.shared_weights import SharedWeights
from dino_jax.models.backbone import Features, ImplicitSettings
from dino_jax.models.block import Block, Groups, slots_of
from dino_jax.models.crops import LOCAL, Crops, check_masks, check_visible
from dino_jax.models.gpu_attention import takes_cudnn
from dino_jax.models.layers import Dtype, PatchEmbed, layer_norm
from dino_jax.models.position import Grid, init_positions, resize_position_embedding
from dino_jax.models.rope import Config as Rope
from dino_jax.models.rope import Rotation, draw_augmentation, make_rotations
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
    key_bias: bool = True
    proj_bias: bool = True
    ffn_bias: bool = True
    norm_epsilon: float = 1e-6
    drop_path_rate: float = 0.0
    drop_path_schedule: str = "linear"
    drop_path_kind: str = "per_sample"
    drop_path_group: int | None = None
    position_kernel: str = "bicubic"
    position: str = "learned"
    rope: Rope = Rope()
    cls_norm: bool = False
    local_cls_norm: bool = False
    first_kernels: str = "normal"
    stem: str = "patches"
    dtype: Dtype = jnp.float32
    remat: str = "none"
    scan_unroll: int = 1
    rounds: bool = False
    by_cudnn: bool = False
    branches: Branches | None = None

    has_attention = True

    @property
    def row_wise(self) -> bool:
        """BatchNorm in a stem of convolutions looks at all images."""
        return self.stem == "patches"

    @property
    def drops_patches(self) -> bool:
        """Angles are those of whole grids."""
        return not self.turns

    @property
    def turns(self) -> bool:
        """Whether queries and keys turn, in place of a table of positions."""
        return self.position == "rope"

    @property
    def table_grid(self) -> Grid:
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def implicit(self) -> ImplicitSettings:
        """Settings that the shapes of its weights do not show."""
        return ImplicitSettings(
            grid=None if self.turns else self.table_grid,
            image_size=self.image_size,
            num_heads=self.num_heads,
            position_kernel=None if self.turns else self.position_kernel,
            norm_epsilon=self.norm_epsilon,
            rope=self.rope.still if self.turns else None,
            key_bias=self.key_bias,
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
        if not self.turns:
            shape = (1, 1 + self.table_grid[0] * self.table_grid[1], dim)
            first = init_positions(self.position, self.table_grid)
            self.pos_embed = self.param("pos_embed", first, shape)
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
            key_bias=self.key_bias,
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
        if self.cls_norm:
            self.norm_of_cls = layer_norm(self.dtype, self.norm_epsilon, "cls_norm")
        if self.local_cls_norm:
            self.norm_of_local_cls = layer_norm(self.dtype, self.norm_epsilon, "local_cls_norm")

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
        if self.blocks.takes_padding(counts, self.turns):
            tokens = tuple(map(pad_tokens, tokens))
        kept = [self._kept_samples(crops.images.shape[0]) for crops in groups]

        grids = [self._grid(crops.images) for crops in groups]
        draws = [self._draw_angles() for _ in groups]

        def run_block(block: Block, tokens: Groups, inputs):
            rotations = self._rotate(grids, inputs["draws"])
            tokens, _ = block(tokens, inputs["drop_rate"], inputs["kept"], counts, rotations)
            return tokens, None

        per_block = {"drop_rate": self._drop_rates(), "kept": kept, "draws": draws}
        tokens, _ = self._scan(run_block, tokens, per_block)
        return [
            self._split(self._normalize(x[:, :count], crops.group))
            for x, count, crops in zip(tokens, counts, groups, strict=True)
        ]

    def intermediate(
        self, images: jax.Array, layers: Sequence[int], normalize: bool = True
    ) -> tuple[Features, ...]:
        """Features after the given blocks (negative: from the end), through the final LayerNorm."""
        outputs = self.encode(images, layers=layers).layers
        return tuple(self._split(self._normalize(x) if normalize else x) for x in outputs)

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
            "layers": jnp.asarray(slots_of(layers, self.depth)),
            "attention": jnp.asarray(slots_of(attention, self.depth)),
        }

        grids = [self._grid(images)]

        def run_block(block: Block, carry, inputs):
            tokens, kept = carry
            rotations = self._rotate(grids, [None])
            (tokens,), (weights,) = block((tokens,), None, None, None, rotations)
            # A block that was not requested has a slot past the end: its write is dropped.
            if layers:
                kept["layers"] = kept["layers"].at[inputs["layers"]].set(tokens, mode="drop")
            if attention:
                slot = inputs["attention"]
                kept["attention"] = kept["attention"].at[slot].set(weights, mode="drop")
            return (tokens, kept), None

        (tokens, kept), _ = self._scan(run_block, (tokens, kept), slots)
        return Encoded(self._normalize(tokens), kept["layers"], kept["attention"])

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
        patches = self.patch_embed(images)
        if masks is not None:
            check_masks(masks, patches, self.has_mask_token)
            patches = jnp.where(masks[..., None], self.mask_token.astype(self.dtype), patches)
        tokens = jnp.concatenate([self._repeat(self.cls_token, batch), patches], axis=1)
        if not self.turns:
            tokens += resize_position_embedding(
                self.pos_embed,
                self.table_grid,
                self._grid(images),
                (height, width),
                self.position_kernel,
            ).astype(self.dtype)
        if visible is not None:
            patches = tokens[:, 1:]
            check_visible(visible, patches, self.drops_patches)
            kept = jnp.take_along_axis(patches, visible[..., None], axis=1)
            tokens = jnp.concatenate([tokens[:, :1], kept], axis=1)
        if not self.registers:
            return tokens
        registers = self._repeat(self.register_tokens, batch)
        return jnp.concatenate([tokens[:, :1], registers, tokens[:, 1:]], axis=1)

    def _embed_on_devices(self, crops: Crops) -> jax.Array:
        """`embed`, every device for its crops."""
        inputs = (crops.images, crops.masks, crops.visible)
        if self.branches is None:
            return self.embed(*inputs)
        params = self.variables["params"]
        params = {k: v for k, v in params.items() if k != "blocks" and not k.endswith("norm")}
        alone = self.clone(parent=None, name=None, branches=None)

        def embed(params: Any, *arguments: jax.Array) -> Any:
            return alone.apply({"params": params}, *arguments, method="embed")

        embedded = self.branches.weights.run(embed, params, inputs, self.dtype)
        return embedded[: len(crops.images)]

    def _repeat(self, token: jax.Array, batch: int) -> jax.Array:
        return jnp.broadcast_to(token, (batch, *token.shape[1:])).astype(self.dtype)

    def _grid(self, images: jax.Array) -> Grid:
        """(rows, columns) of whole patches."""
        return images.shape[1] // self.patch_size, images.shape[2] // self.patch_size

    def _rotate(self, grids: Sequence[Grid], draws: Sequence[Any]) -> list[Rotation] | None:
        """The angles of every grid in one block; None: positions are in a table."""
        if not self.turns:
            return None
        return make_rotations(self.rope, self.embed_dim // self.num_heads, grids, draws)

    def _draw_angles(self) -> jax.Array | None:
        """[depth, 5] numbers that change the angles of each block in training; None: as they are.

        Training is a pass with a "drop_path" RNG.
        """
        if not (self.turns and self.rope.augments and self.has_rng("drop_path")):
            return None
        return draw_augmentation(self.make_rng("drop_path"), self.rope, self.depth)

    def _normalize(self, tokens: jax.Array, group: str | None = None) -> jax.Array:
        """The final LayerNorms: cls and registers may have other ones than the patches."""
        norm = self.norm_of_cls if self.cls_norm else self.norm
        if self.local_cls_norm and self.is_initializing():
            self.norm_of_local_cls(tokens)
        if self.local_cls_norm and group == LOCAL:
            norm = self.norm_of_local_cls
        if norm is self.norm:
            return norm(tokens)
        cut = 1 + self.registers
        return jnp.concatenate([norm(tokens[:, :cut]), self.norm(tokens[:, cut:])], axis=1)

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
