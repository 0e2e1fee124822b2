"""The transformer block of the ViT."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from dino_jax.devices.kernels.branches import Branches
from dino_jax.models.attention import Attend, Attention, attend, without_key_bias
from dino_jax.models.gpu_attention import attend_by_cudnn
from dino_jax.models.layers import FFNS, Dtype, LayerScale, layer_norm
from dino_jax.models.products import rounded_attend, takes_rounded_attention
from dino_jax.models.rope import Rotation
from dino_jax.models.stochastic_depth import branch_scales, put_subset, subset_scale, take_subset

Groups = tuple[jax.Array, ...]
Rotations = Sequence[Rotation | None]  # of each group
Branch = Callable[[Groups, Groups], Groups]  # (tokens, scales) -> tokens + scales * branch(tokens)


class Block(nn.Module):
    """Pre-norm transformer block: x += ls1(attention(norm1(x))); x += ls2(ffn(norm2(x))).

    Attributes:
      dim: D, width of the tokens.
      num_heads: attention heads.
      mlp_ratio: hidden width of the MLP over D.
      ffn: a key of `FFNS`.
      layer_scale: first value of the factors of both branches; 0 for no factors.
      qkv_bias: bias of the queries, keys and values.
      key_bias: whether that of the keys counts.
      proj_bias: bias of the output of the attention.
      ffn_bias: biases of the FFN.
      norm_epsilon: added to the variance in both LayerNorms.
      first_kernels: a key of `layers.FIRST_KERNELS`.
      dtype: dtype of the activations.
      rounds: whether the operands of products are rounded, see `products`.
      by_cudnn: whether cuDNN computes the attention when attention weights are not needed.
      branches: how the devices of a mesh compute when attention weights are not needed.
    """

    dim: int
    num_heads: int
    mlp_ratio: float
    ffn: str = "mlp"
    layer_scale: float = 0.0
    qkv_bias: bool = True
    key_bias: bool = True
    proj_bias: bool = True
    ffn_bias: bool = True
    norm_epsilon: float = 1e-6
    first_kernels: str = "normal"
    dtype: Dtype = jnp.float32
    rounds: bool = False
    by_cudnn: bool = False
    branches: Branches | None = None

    def setup(self):
        self.norm1 = layer_norm(self.dtype, self.norm_epsilon)
        self.norm2 = layer_norm(self.dtype, self.norm_epsilon)
        self.hidden_dim = int(self.dim * self.mlp_ratio)
        self.attention = Attention(
            *(self.num_heads, self.qkv_bias, self.proj_bias),
            *(self.dtype, self.first_kernels, self.rounds, self.key_bias),
        )
        self.mlp = FFNS[self.ffn](
            self.hidden_dim, self.ffn_bias, self.dtype, self.first_kernels, self.rounds
        )
        if self.layer_scale:
            self.layer_scale1 = LayerScale(self.layer_scale)
            self.layer_scale2 = LayerScale(self.layer_scale)

    def __call__(
        self,
        groups: Groups,
        drop_rate: jax.Array | None = None,
        kept: Sequence[jax.Array | None] | None = None,
        tokens: tuple[int, ...] | None = None,
        rotations: Rotations | None = None,
    ) -> tuple[Groups, list[jax.Array | None]]:
        """Moves the tokens of all groups of crops through one layer.

        Args:
          groups: [B, N, D] tokens of each group, crops of one size.
          drop_rate: scalar, probability of dropping a sample's branch; draws from the "drop_path"
            RNG. None: no sample is dropped.
          kept: for each group [2, G, k] samples that the attention and the FFN run on, as
            `stochastic_depth.take_subset` takes them. None: all samples.
          tokens: number of tokens of each group, which may be padded for the kernels. None:
            attention weights are needed.
          rotations: for each group the angles by which queries and keys turn. None: by none.

        Returns:
          The tokens of each group, and [B, H, N, N] attention weights of each group (of the kept
          samples only; None on the devices of a mesh).
        """
        weights: list[jax.Array | None] = [None] * len(groups)
        turns: Rotations = rotations or [None] * len(groups)

        def attention(groups: Groups, scales: Groups) -> Groups:
            attends = [attend if tokens is None else self._quickest(x.shape[1]) for x in groups]
            groups, weights[:] = self.attention_branch(groups, scales, attends, turns)
            return groups

        ffn: Branch = self.ffn_branch
        if self.branches is not None and tokens is not None:
            padded = self.takes_padding(tokens, rotations is not None)
            attention = partial(self._attention_on_devices, self.branches, tokens, turns, padded)
            ffn = partial(self._ffn_on_devices, self.branches, tokens, padded)
        groups = self._move(groups, attention, drop_rate, kept, 0)
        groups = tuple(checkpoint_name(x, "residual") for x in groups)
        return self._move(groups, ffn, drop_rate, kept, 1), weights

    def takes_padding(self, tokens: tuple[int, ...], turns: bool) -> bool:
        """Whether kernels take both branches, and with them tokens as `pad_tokens` gives them.

        The kernel of the attention does not turn queries and keys: XLA computes all then.

        Args:
          tokens: number of tokens of each group.
          turns: whether queries and keys turn.
        """
        return (
            not turns
            and self.branches is not None
            and (self.branches.take_attention(self.dim, tokens))
        )

    def attention_branch(
        self, groups: Groups, scales: Groups, attends: Sequence[Attend], turns: Rotations
    ) -> tuple[Groups, list[jax.Array | None]]:
        """x + scale * attention(norm(x)), and the attention weights, if they are computed."""
        pairs = [
            self.attention(self.norm1(x), how, turn)
            for x, how, turn in zip(groups, attends, turns, strict=True)
        ]
        branches = [self.layer_scale1(x) if self.layer_scale else x for x, _ in pairs]
        return _add(groups, branches, scales), [weights for _, weights in pairs]

    def ffn_branch(self, groups: Groups, scales: Groups) -> Groups:
        """x + scale * FFN(norm(x))."""
        branches = [self.mlp(self.norm2(x)) for x in groups]
        if self.layer_scale:
            branches = [self.layer_scale2(x) for x in branches]
        return _add(groups, branches, scales)

    def _attention_on_devices(
        self,
        branches: Branches,
        tokens: tuple[int, ...],
        turns: Rotations,
        padded: bool,
        groups: Groups,
        scales: Groups,
    ) -> Groups:
        """The tokens of `attention_branch`, each device for its crops."""
        params = self._params("norm1", "attention", "layer_scale1")
        if padded:
            if self.qkv_bias and not self.key_bias:
                qkv = params["attention"]["qkv"]
                qkv = qkv | {"bias": without_key_bias(qkv["bias"])}
                params["attention"] = params["attention"] | {"qkv": qkv}
            return branches.attention(groups, scales, params, self.num_heads, tokens)
        attends = [
            branches.long_attention
            if branches.take_long_attention(count)
            else self._quickest(count)
            for count in tokens
        ]
        return branches.plain(
            lambda *whole: self._alone("attention_branch", *whole, attends, turns)[0],
            *(params, groups, scales),
        )

    def _ffn_on_devices(
        self,
        branches: Branches,
        tokens: tuple[int, ...],
        padded: bool,
        groups: Groups,
        scales: Groups,
    ) -> Groups:
        """`ffn_branch`, each device for its crops."""
        params = self._params("norm2", "mlp", "layer_scale2")
        if padded and self.ffn == "mlp" and branches.take_mlp(self.dim, self.hidden_dim, tokens):
            return branches.mlp(groups, scales, params)
        return branches.plain(partial(self._alone, "ffn_branch"), params, groups, scales)

    def _quickest(self, tokens: int) -> Attend:
        """The attention of so many tokens where its weights are not needed."""
        if self.by_cudnn:
            return attend_by_cudnn
        takes = self.rounds and takes_rounded_attention(tokens, self.dim // self.num_heads)
        return rounded_attend if takes else attend

    def _params(self, *names: str) -> dict:
        """Params of this layer with these names, as far as they exist."""
        params = self.variables["params"]
        return {name: params[name] for name in names if name in params}

    def _alone(self, method: str, params: dict, *arguments: Any) -> Any:
        """A method of a block that has these params."""
        block = self.clone(parent=None, name=None, branches=None)
        return block.apply({"params": params}, *arguments, method=method)

    def _move(
        self,
        groups: Groups,
        branch: Branch,
        drop_rate: jax.Array | None,
        kept: Sequence[jax.Array | None] | None,
        half: int,
    ) -> Groups:
        """Adds a branch, to all samples or to those that are kept."""
        subsets = [None if rows is None else rows[half] for rows in kept or [None] * len(groups)]
        rows = tuple(map(take_subset, groups, subsets))
        scales = tuple(
            jnp.full((x.shape[0], 1, 1), subset_scale(whole, subset))
            if drop_rate is None
            else branch_scales(drop_rate, self.make_rng("drop_path"), len(x))
            for x, whole, subset in zip(rows, groups, subsets, strict=True)
        )
        return tuple(map(put_subset, groups, branch(rows, scales), subsets))


def _add(groups: Groups, branches: Sequence[jax.Array], scales: Groups) -> Groups:
    return tuple(
        x + branch * scale.astype(x.dtype)
        for x, branch, scale in zip(groups, branches, scales, strict=True)
    )


def slots_of(chosen: Sequence[int], depth: int) -> np.ndarray:
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
