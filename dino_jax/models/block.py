"""The transformer block of the ViT."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from dino_jax.kernels.branches import Branches
from dino_jax.models.layers import (
    FFNS,
    Attend,
    Attention,
    Dtype,
    LayerScale,
    attend,
    layer_norm,
)
from dino_jax.models.stochastic_depth import branch_scales, put_subset, subset_scale, take_subset

Groups = tuple[jax.Array, ...]
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
      proj_bias: bias of the output of the attention.
      ffn_bias: biases of the FFN.
      norm_epsilon: added to the variance in both LayerNorms.
      dtype: of the activations.
      branches: kernels, where nobody asks for attention weights; None: XLA does everything.
    """

    dim: int
    num_heads: int
    mlp_ratio: float
    ffn: str = "mlp"
    layer_scale: float = 0.0
    qkv_bias: bool = True
    proj_bias: bool = True
    ffn_bias: bool = True
    norm_epsilon: float = 1e-6
    dtype: Dtype = jnp.float32
    branches: Branches | None = None

    def setup(self):
        norm, factors = self._gathered(nn.LayerNorm), self._gathered(LayerScale)
        self.norm1 = layer_norm(self.dtype, self.norm_epsilon, norm)
        self.norm2 = layer_norm(self.dtype, self.norm_epsilon, norm)
        self.hidden_dim = int(self.dim * self.mlp_ratio)
        attention, ffn = self._gathered(Attention), self._gathered(FFNS[self.ffn])
        self.attention = attention(self.num_heads, self.qkv_bias, self.proj_bias, self.dtype)
        self.mlp = ffn(self.hidden_dim, self.ffn_bias, self.dtype)
        if self.layer_scale:
            self.layer_scale1 = factors(self.layer_scale)
            self.layer_scale2 = factors(self.layer_scale)

    def __call__(
        self,
        groups: Groups,
        drop_rate: jax.Array | None = None,
        kept: Sequence[jax.Array | None] | None = None,
        tokens: tuple[int, ...] | None = None,
    ) -> tuple[Groups, list[jax.Array | None]]:
        """Moves the tokens of all groups of crops through one layer.

        Args:
          groups: [B, N, D] tokens of each group, crops of one size.
          drop_rate: scalar, probability of dropping a sample's branch; draws from the "drop_path"
            RNG. None: no sample is dropped.
          kept: for each group [2, G, k] samples that the attention and the FFN run on, as
            `stochastic_depth.take_subset` takes them. None: all samples.
          tokens: of each group, to run the kernels that take them: groups may be padded for
            these. None: attention weights are asked for.

        Returns:
          The tokens of each group, and [B, H, N, N] attention weights of each group (of the kept
          samples only; none from kernels).
        """
        weights: list[jax.Array | None] = []

        def attention(groups: Groups, scales: Groups) -> Groups:
            branches = []
            for x, count in zip(groups, tokens or [None] * len(groups), strict=True):
                branch, weights_of_group = self.attention(self.norm1(x), self._attend(count))
                branches.append(self.layer_scale1(branch) if self.layer_scale else branch)
                weights.append(weights_of_group)
            return _add(groups, branches, scales)

        def ffn(groups: Groups, scales: Groups) -> Groups:
            branches = [self.mlp(self.norm2(x)) for x in groups]
            if self.layer_scale:
                branches = [self.layer_scale2(branch) for branch in branches]
            return _add(groups, branches, scales)

        kernels = self._kernels(tokens) if tokens else {}
        groups = self._move(groups, kernels.get("attention", attention), drop_rate, kept, 0)
        groups = tuple(checkpoint_name(x, "residual") for x in groups)
        return self._move(groups, kernels.get("ffn", ffn), drop_rate, kept, 1), weights

    def _gathered(self, module: Any) -> Any:
        """A module that has its weights whole on every device when it uses them."""
        if self.branches is None:
            return module
        return nn.map_variables(module, "params", self.branches.gather)

    def _attend(self, tokens: int | None) -> Attend:
        """How a group of such sequences attends."""
        if tokens and self.branches and self.branches.take_long_attention(tokens):
            return self.branches.long_attention
        return attend

    def _kernels(self, tokens: tuple[int, ...]) -> dict[str, Branch]:
        """The branches that kernels take, with this layer's parameters."""
        branches = self.branches
        if branches is None or not branches.take_attention(self.dim, tokens):
            return {}
        params, kernels = self.variables["params"], {}

        def of_branch(number: int, name: str) -> dict:
            scale = f"layer_scale{number}"
            factors = {"layer_scale": params[scale]} if self.layer_scale else {}
            return {"norm": params[f"norm{number}"], **params[name], **factors}

        def attention(groups: Groups, scales: Groups) -> Groups:
            params = of_branch(1, "attention")
            return branches.attention(groups, scales, params, self.num_heads, tokens)

        kernels["attention"] = attention
        if self.ffn == "mlp" and branches.take_mlp(self.dim, self.hidden_dim, tokens):
            kernels["ffn"] = lambda x, scales: branches.mlp(x, scales, of_branch(2, "mlp"))
        return kernels

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
            jnp.full((len(x), 1, 1), subset_scale(whole, subset))
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
