"""Attention of NVIDIA GPUs by cuDNN, which never holds the scores of all pairs of tokens.

Nobody has run it on a GPU yet: tests compare it with ours through XLA's implementation of the same
function, and lower it for CUDA.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from dino_jax.models.layers import Dtype

LEAST_CAPABILITY = (8, 0)  # Ampere: cuDNN's flash attention
MOST_CHANNELS = 128  # of a head


def takes_cudnn(device: Any, dtype: Dtype, head_dim: int) -> bool:
    """Whether cuDNN's attention can be used.

    Args:
      device: one of the devices of the mesh.
      dtype: dtype of the activations; cuDNN has no float32.
      head_dim: channels of an attention head.
    """
    if device.platform not in ("gpu", "cuda"):
        return False
    # AMD's are "gfx90a" and the like.
    known = re.fullmatch(r"(\d+)\.(\d+)", str(getattr(device, "compute_capability", "")))
    if not known or tuple(map(int, known.groups())) < LEAST_CAPABILITY:
        return False
    return dtype in (jnp.bfloat16, jnp.float16) and head_dim % 8 == 0 and head_dim <= MOST_CHANNELS


def attend_by_cudnn(
    queries: jax.Array, keys: jax.Array, values: jax.Array, implementation: str = "cudnn"
) -> tuple[jax.Array, None]:
    """[B, N, H, d] each -> ([B, N, D] mixed values, None: the weights are never there).

    jax 0.10 to 0.12 refuses an odd number of tokens in training, as that of every ViT with a cls
    token is: a token is added that nobody looks at.

    Args:
      queries: [B, N, H, d]
      keys: likewise.
      values: likewise.
      implementation: "xla" computes the same without a GPU.
    """
    kind: Any = implementation
    batch, count = queries.shape[:2]
    lengths = None
    if count % 2:
        queries, keys, values = (
            jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (queries, keys, values)
        )
        lengths = jnp.full(batch, count, jnp.int32)
    mixed = jax.nn.dot_product_attention(
        queries,
        keys,
        values,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation=kind,
    )
    return checkpoint_name(mixed[:, :count].reshape(batch, count, -1), "attention"), None
