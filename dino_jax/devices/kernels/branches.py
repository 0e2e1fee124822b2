"""The residual branches of a ViT block on the devices of a mesh, with their gradients."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from dino_jax.devices.kernels.attention_branch import (
    AttentionWeights,
    Shape,
    attention_branch,
    attention_branch_gradient,
)
from dino_jax.devices.kernels.long_attention import long_attention
from dino_jax.devices.kernels.mlp_branch import MlpWeights, mlp_branch, mlp_branch_gradient
from dino_jax.devices.kernels.shared_weights import SharedWeights, keep_no_copies
from dino_jax.devices.kernels.tiles import ROWS, SUBLANES

Groups = tuple[jax.Array, ...]
Params = Any

MAX_TOKENS = 512  # of a crop whose scores are computed at once
# On-chip memory per core that a kernel may use, of 128, 128, 64 and 64 MiB (jax's tpu_info).
VMEM_MIB = {"TPU v5 lite": 112, "TPU v6 lite": 112, "TPU v5": 56, "TPU7x": 56}
MIB = 2**20


def kernel_memory(device: Any) -> int:
    """Bytes of on-chip memory that a kernel may use; 0 for devices without kernels."""
    return VMEM_MIB.get(device.device_kind, 0) * MIB


def pad_tokens(x: jax.Array) -> jax.Array:
    """[B, T, D] -> [B, P, D], zeros up to the next multiple of a register's rows."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % SUBLANES), (0, 0)))


@dataclasses.dataclass(frozen=True)
class Branches:
    """Runs the kernels where they fit.

    Groups are the crops of one size each, [B, P, D] with P a multiple of 8. They go through a
    branch together, so that its weights are cast and, if they are split, gathered once, and their
    gradients are summed over the devices once.

    Attributes:
      weights: how the devices share the weights of a layer.
      epsilon: epsilon of the LayerNorms.
      vmem: bytes of on-chip memory that a kernel may use; 0 on devices without kernels.
      interpret: runs without a TPU, as tests do.
      gather_again: whether branches without a kernel gather their weights once more for the
        backward pass instead of keeping them, unless XLA knows better. Those with a kernel
        always do, and so does everything that a rematerialized block computes.
    """

    weights: SharedWeights
    epsilon: float = 1e-6
    vmem: int = 0
    interpret: bool = False
    gather_again: bool = False

    def of_layers(self, depth: int, gather_again: bool) -> "Branches":
        """The same for the blocks of a scan, whose weights the state stacks."""
        weights = dataclasses.replace(self.weights, depth=depth)
        return dataclasses.replace(self, weights=weights, gather_again=gather_again)

    def plain(
        self,
        branch: Callable[[Params, Groups, Groups], Groups],
        params: Params,
        groups: Groups,
        scales: Groups,
    ) -> Groups:
        """A branch without a kernel, by XLA, on every device for its crops.

        Args:
          branch: maps whole params, groups and scales.
          params: params of one layer that it needs.
          groups: groups of crops.
          scales: [B, 1, 1] float32 of each group.
        """
        run = partial(self.weights.run, branch, dtype=groups[0].dtype)
        if self.gather_again:
            run = jax.checkpoint(run, policy=keep_no_copies, prevent_cse=False)
        outputs = run(params, (groups, scales))
        return tuple(y[: len(x)] for x, y in zip(groups, outputs, strict=True))

    def take_attention(self, dim: int, tokens: Sequence[int]) -> bool:
        """Whether the attention of D = `dim` and such sequences fits on the chip."""
        widest = 3 * dim + 2 * max(tokens)
        return max(tokens) <= MAX_TOKENS and self._fits(4 * dim**2, widest, tokens)

    def take_mlp(self, dim: int, hidden: int, tokens: Sequence[int]) -> bool:
        """Whether an MLP fits on the chip."""
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
          groups: groups of crops.
          scales: [B, 1, 1] float32 of each group.
          params: {"norm1": …, "attention": …[, "layer_scale1": …]} of the block.
          heads: H
          tokens: T of each group, without the padding.
        """
        norm, qkv = params["norm1"], params["attention"]["qkv"]
        proj = _scaled(params["attention"]["proj"], params.get("layer_scale1"))
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
        """Stands in for `attention.attend`; no device holds the weights as a whole."""
        return long_attention(queries, keys, values, self.interpret), None

    def mlp(self, groups: Groups, scales: Groups, params: Params) -> Groups:
        """x + scale * MLP(norm(x)); params are {"norm2": …, "mlp": …[, "layer_scale2": …]}."""
        norm, fc1 = params["norm2"], params["mlp"]["fc1"]
        fc2 = _scaled(params["mlp"]["fc2"], params.get("layer_scale2"))
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
        shared, own = self.weights, self.weights.per_device
        split = shared.specs(weights)
        on_mesh = partial(jax.shard_map, mesh=shared.mesh, check_vma=False)
        dtype = groups[0].dtype

        @partial(on_mesh, in_specs=(own, own, split), out_specs=own)
        def run(groups, scales, parts):
            whole = shared.gather(parts, dtype, weights)
            return tuple(
                forward(x, scale, whole)
                for forward, x, scale in zip(forwards, groups, scales, strict=True)
            )

        @partial(on_mesh, in_specs=(own, own, own, split), out_specs=(own, split))
        def run_back(groups, gradients, scales, parts):
            whole = shared.gather(parts, dtype, weights)
            pairs = [
                backward(x, gradient, scale, whole)
                for backward, x, gradient, scale in zip(
                    backwards, groups, gradients, scales, strict=True
                )
            ]
            total = jax.tree.map(lambda *parts: sum(parts), *(d_weights for _, d_weights in pairs))
            return tuple(d_x for d_x, _ in pairs), shared.reduce(total)

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
        outputs = branch(shared.pad(groups), shared.pad(scales), weights)
        return tuple(y[: len(x)] for x, y in zip(groups, outputs, strict=True))


def _row(x: jax.Array) -> jax.Array:
    return x[None]


def _bias(layer: Params) -> jax.Array:
    """[1, n]; zeros if the layer has none."""
    return _row(layer["bias"] if "bias" in layer else jnp.zeros(layer["kernel"].shape[1]))


def _scaled(layer: Params, layer_scale: Params | None) -> Params:
    """The last layer of a branch with the factors of LayerScale, if any, in its weights."""
    return layer if layer_scale is None else jax.tree.map(lambda x: x * layer_scale["gamma"], layer)
