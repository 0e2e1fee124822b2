"""The residual branches of a ViT block on the devices of a mesh, with their gradients."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from dino_jax.kernels.attention_branch import (
    AttentionWeights,
    Shape,
    attention_branch,
    attention_branch_gradient,
)
from dino_jax.kernels.long_attention import long_attention
from dino_jax.kernels.mlp_branch import MlpWeights, mlp_branch, mlp_branch_gradient
from dino_jax.kernels.tiles import ROWS, SUBLANES
from dino_jax.sharding import replicated, split_axis, split_spec

Groups = tuple[jax.Array, ...]
Params = Any

MAX_TOKENS = 512  # of a crop whose scores are computed at once
# On-chip memory per core that a kernel may use, of 128, 128, 64 and 64 MiB (jax' tpu_info).
VMEM_BYTES = {"TPU v5 lite": 112, "TPU v6 lite": 112, "TPU v5": 56, "TPU7x": 56}
MIB = 2**20


def pad_tokens(x: jax.Array) -> jax.Array:
    """[B, T, D] -> [B, P, D], zeros up to the next multiple of a register's rows."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % SUBLANES), (0, 0)))


@dataclasses.dataclass(frozen=True)
class Branches:
    """Runs the kernels where they fit.

    Groups are the crops of one size each, [B, P, D] with P a multiple of 8. They go through a
    branch together, so that its weights are cast and, if they are split, gathered once, and their
    gradients are summed over the devices once, in float32, each device
    keeping its part of what is split.

    Attributes:
      mesh: whose devices share the crops.
      depth: number of blocks.
      epsilon: of the LayerNorms.
      vmem: bytes of on-chip memory that a kernel may use; 0 on devices without kernels.
      interpret: runs without a TPU, as tests do.
    """

    mesh: Mesh
    depth: int
    epsilon: float = 1e-6
    vmem: int = 0
    interpret: bool = False

    def gather(self, params: Params) -> Params:
        """One layer's parameters, whole on every device: for branches without a kernel."""
        return jax.lax.with_sharding_constraint(params, replicated(self.mesh))

    def take_attention(self, dim: int, tokens: Sequence[int]) -> bool:
        """Whether there is room for the attention of D = `dim` and such sequences."""
        widest = 3 * dim + 2 * max(tokens)
        return max(tokens) <= MAX_TOKENS and self._fits(4 * dim**2, widest, tokens)

    def take_mlp(self, dim: int, hidden: int, tokens: Sequence[int]) -> bool:
        """Whether there is room for an MLP."""
        return max(tokens) <= MAX_TOKENS and self._fits(2 * dim * hidden, 2 * hidden, tokens)

    def take_long_attention(self, tokens: int) -> bool:
        """Whether a sequence is too long for its scores to be computed at once."""
        return self.vmem > 0 and tokens > MAX_TOKENS

    def _fits(self, weights: int, width: int, tokens: Sequence[int]) -> bool:
        """Weights in bfloat16, their gradients in float32, and a few arrays per row."""
        rows = max(ROWS, *tokens)
        return 6 * weights + 3 * 4 * rows * width <= self.vmem

    def attention(
        self, groups: Groups, scales: Groups, params: Params, heads: int, tokens: Sequence[int]
    ) -> Groups:
        """x + scale * attention(norm(x)).

        Args:
          groups: of crops.
          scales: [B, 1, 1] float32 of each group.
          params: {"norm": …, "qkv": …, "proj": …[, "layer_scale": …]} of the block.
          heads: H
          tokens: T of each group, without the padding.
        """
        norm, qkv, proj = params["norm"], params["qkv"], _scaled(params["proj"], params)
        weights = AttentionWeights(
            *(_row(norm["scale"]), _row(norm["bias"])),
            *(qkv["kernel"], _bias(qkv)),
            *(proj["kernel"], _bias(proj)),
        )
        shapes = [Shape(heads, count, self.epsilon) for count in tokens]
        return self._run(
            [partial(attention_branch, shape=shape, interpret=self.interpret) for shape in shapes],
            [
                partial(attention_branch_gradient, shape=shape, interpret=self.interpret)
                for shape in shapes
            ],
            *(groups, scales, weights),
        )

    def long_attention(
        self, queries: jax.Array, keys: jax.Array, values: jax.Array
    ) -> tuple[jax.Array, None]:
        """Stands in for `layers.attend`; the weights are nowhere as a whole."""
        return long_attention(queries, keys, values, self.mesh, self.interpret), None

    def mlp(self, groups: Groups, scales: Groups, params: Params) -> Groups:
        """x + scale * MLP(norm(x)); params are {"norm": …, "fc1": …, "fc2": …[, "layer_scale"]}."""
        norm, fc1, fc2 = params["norm"], params["fc1"], _scaled(params["fc2"], params)
        weights = MlpWeights(
            *(_row(norm["scale"]), _row(norm["bias"])),
            *(fc1["kernel"], _bias(fc1)),
            *(fc2["kernel"], _bias(fc2)),
        )
        forward = partial(mlp_branch, epsilon=self.epsilon, interpret=self.interpret)
        backward = partial(mlp_branch_gradient, epsilon=self.epsilon, interpret=self.interpret)
        return self._run([forward] * len(groups), [backward] * len(groups), groups, scales, weights)

    def _run(
        self,
        forwards: Sequence[Callable],
        backwards: Sequence[Callable],
        groups: Groups,
        scales: Groups,
        weights: Any,
    ) -> Groups:
        """Every group through its kernel on every device; weights are float32."""
        crops = PartitionSpec(self.mesh.axis_names)
        axes = jax.tree.map(self._split_axis, weights)
        split = jax.tree.map(split_spec, axes, is_leaf=lambda axis: axis is None)
        on_mesh = partial(jax.shard_map, mesh=self.mesh, check_vma=False)
        dtype = groups[0].dtype

        @partial(on_mesh, in_specs=(crops, crops, split), out_specs=crops)
        def run(groups, scales, weights):
            weights = _gather(weights, axes, dtype)
            return tuple(
                forward(x, scale, weights)
                for forward, x, scale in zip(forwards, groups, scales, strict=True)
            )

        @partial(on_mesh, in_specs=(crops, crops, crops, split), out_specs=(crops, split))
        def run_back(groups, gradients, scales, weights):
            weights = _gather(weights, axes, dtype)
            pairs = [
                backward(x, gradient, scale, weights)
                for backward, x, gradient, scale in zip(
                    backwards, groups, gradients, scales, strict=True
                )
            ]
            total = jax.tree.map(lambda *parts: sum(parts), *(d_weights for _, d_weights in pairs))
            return tuple(d_x for d_x, _ in pairs), self._reduce(total, axes)

        @jax.custom_vjp
        def branch(groups, scales, weights):
            return run(groups, scales, weights)

        def forward(groups, scales, weights):
            return run(groups, scales, weights), (groups, scales, weights)

        def backward(kept, gradients):
            groups, scales, weights = kept
            d_groups, d_weights = run_back(groups, gradients, scales, weights)
            # Whether a branch is dropped is drawn, not learned.
            return d_groups, jax.tree.map(jnp.zeros_like, scales), d_weights

        branch.defvjp(forward, backward)
        padded = branch(*(tuple(map(self._pad_crops, x)) for x in (groups, scales)), weights)
        return tuple(y[: len(x)] for x, y in zip(groups, padded, strict=True))

    def _pad_crops(self, x: jax.Array) -> jax.Array:
        """As many crops on every device, zeros for those that are missing."""
        missing = -len(x) % self.mesh.size
        return jnp.pad(x, ((0, missing), (0, 0), (0, 0))) if missing else x

    def _split_axis(self, weight: jax.Array) -> int | None:
        """Along which the state splits a layer's weight [m, n], or row [1, n]."""
        rows, columns = weight.shape
        stacked = (self.depth, columns) if rows == 1 else (self.depth, rows, columns)
        axis = split_axis(stacked, self.mesh.shape["fsdp"])
        if axis in (None, 0):  # whole, or split by layers
            return None
        return 1 if rows == 1 else axis - 1

    def _reduce(self, gradients: Any, axes: Any) -> Any:
        """Sums over all devices; each keeps its own part of what the state splits."""

        def reduce(axis: int | None, gradient: jax.Array) -> jax.Array:
            if axis is None:
                return jax.lax.psum(gradient, self.mesh.axis_names)
            part = jax.lax.psum_scatter(gradient, "fsdp", scatter_dimension=axis, tiled=True)
            return jax.lax.psum(part, "data")

        return jax.tree.map(reduce, axes, gradients, is_leaf=lambda axis: axis is None)


def _row(x: jax.Array) -> jax.Array:
    return x[None]


def _bias(layer: Params) -> jax.Array:
    """[1, n]; zeros if the layer has none."""
    return _row(layer["bias"] if "bias" in layer else jnp.zeros(layer["kernel"].shape[1]))


def _scaled(layer: Params, params: Params) -> Params:
    """The last layer of a branch with the factors of LayerScale in its weights, if there are."""
    if "layer_scale" not in params:
        return layer
    return jax.tree.map(lambda x: x * params["layer_scale"]["gamma"], layer)


def _gather(weights: Any, axes: Any, dtype: Any) -> Any:
    """Whole weights on every device; matrices in the dtype of the tokens, rows in float32."""

    def gather(axis: int | None, weight: jax.Array) -> jax.Array:
        weight = weight if weight.shape[0] == 1 else weight.astype(dtype)
        if axis is None:
            return weight
        return jax.lax.all_gather(weight, "fsdp", axis=axis, tiled=True)

    return jax.tree.map(gather, axes, weights, is_leaf=lambda axis: axis is None)
