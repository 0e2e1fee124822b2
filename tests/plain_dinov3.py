"""The ViT of DINOv3 written a second time, after notes on the official code: official names, loops.

What it shares with DINO and DINOv2 comes from plain_dino.py and plain_dinov2.py.
"""

import math

import jax.numpy as jnp
import numpy as np

from tests.plain_dino import softmax
from tests.plain_dinov2 import ffn as ffn_v2

EPSILON = 1e-5


def layer_norm(x, weight, bias):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(
        ((x - mean) ** 2).mean(-1, keepdims=True) + EPSILON
    ) * weight + bias


def angles(rows, columns, size, base=100.0, normalize="separate", draw=None):
    """[rows * columns, size] angles, one patch and one channel at a time.

    draw: (shift of rows, of columns, log factor of rows, of columns, of both).
    """
    over = {
        "separate": (rows, columns),
        "max": (max(rows, columns),) * 2,
        "min": (min(rows, columns),) * 2,
    }[normalize]
    table = []
    for row in range(rows):
        for column in range(columns):
            point = [2 * (row + 0.5) / over[0] - 1, 2 * (column + 0.5) / over[1] - 1]
            if draw is not None:
                point = [
                    (x + shift) * jnp.exp(factor) * jnp.exp(draw[4])
                    for x, shift, factor in zip(point, draw[:2], draw[2:4], strict=True)
                ]
            half = [
                2 * math.pi * x / base ** (2 * j / (size / 2))
                for x in point
                for j in range(size // 4)
            ]
            table.append(half + half)
    return jnp.asarray(table, jnp.float32)


def turn(x, table):
    """[B, T, d] of one head: each pair (c, c + d/2) of the last tokens as a complex number."""
    half = x.shape[-1] // 2
    front, patches = x[:, : -len(table)], x[:, -len(table) :]
    a, b = patches[..., :half], patches[..., half:]
    cosine, sine = jnp.cos(table[:, :half]), jnp.sin(table[:, :half])
    patches = jnp.concatenate([a * cosine - b * sine, a * sine + b * cosine], -1)
    return jnp.concatenate([front, patches], 1)


def attention(b, x, heads, table):
    dim = x.shape[-1]
    size, mixed = dim // heads, []
    qkv = x @ b["attn.qkv.weight"].T
    if "attn.qkv.bias" in b:
        bias = np.ones(3 * dim, np.float32)
        if "attn.qkv.bias_mask" in b:
            bias[dim : 2 * dim] = 0
        qkv = qkv + b["attn.qkv.bias"] * bias
    for h in range(heads):
        q, k, v = (qkv[..., n * dim + h * size : n * dim + (h + 1) * size] for n in range(3))
        q, k = turn(q, table), turn(k, table)
        mixed.append(softmax(q @ jnp.swapaxes(k, 1, 2) * size**-0.5) @ v)
    return jnp.concatenate(mixed, -1) @ b["attn.proj.weight"].T + b["attn.proj.bias"]


def ffn(b, x):
    if "mlp.w1.weight" not in b:
        return ffn_v2(b, x)
    gate = x @ b["mlp.w1.weight"].T + b["mlp.w1.bias"]
    value = x @ b["mlp.w2.weight"].T + b["mlp.w2.bias"]
    return gate / (1 + jnp.exp(-gate)) * value @ b["mlp.w3.weight"].T + b["mlp.w3.bias"]


def backbone(p, images, model, masks=None, kept=None, local=False, draws=None):
    """[B, 3, H, W] -> ([B, T, D] tokens after the final norms, and before them).

    Args:
      p: tensors by official names behind "backbone."
      images: normalized.
      model: {"patch", "depth", "heads", "registers"[, "base", "normalize"]}
      masks: bool [B, N]
      kept: kept[block] = (rows of the attention, rows of the FFN)
      local: whether these are local crops in training.
      draws: draws[block] as `angles` takes them.
    """
    p = {name.removeprefix("backbone."): x for name, x in p.items() if name[:9] == "backbone."}
    size, front = model["patch"], 1 + model["registers"]
    batch, _, height, width = images.shape
    rows, columns = height // size, width // size
    patches = []
    for r in range(rows):
        for c in range(columns):
            window = images[:, :, r * size : (r + 1) * size, c * size : (c + 1) * size]
            patches.append(jnp.einsum("bchw,dchw->bd", window, p["patch_embed.proj.weight"]))
    patches = jnp.stack(patches, axis=1) + p["patch_embed.proj.bias"]
    if masks is not None:
        patches = jnp.where(masks[:, :, None], p["mask_token"][0], patches)
    dim = patches.shape[-1]
    tokens = [p["cls_token"]] + ([p["storage_tokens"]] if model["registers"] else [])
    x = jnp.concatenate(
        [jnp.broadcast_to(t, (batch, t.shape[1], dim)) for t in tokens] + [patches], 1
    )
    how = {name: model[name] for name in ("base", "normalize") if name in model}
    for i in range(model["depth"]):
        b = {
            n.removeprefix(f"blocks.{i}."): v for n, v in p.items() if n.startswith(f"blocks.{i}.")
        }
        draw = None if draws is None else draws[i]
        table = angles(rows, columns, dim // model["heads"], draw=draw, **how)

        def attend(y, b=b, table=table):
            y = layer_norm(y, b["norm1.weight"], b["norm1.bias"])
            return attention(b, y, model["heads"], table) * b["ls1.gamma"]

        def feed_forward(y, b=b):
            return ffn(b, layer_norm(y, b["norm2.weight"], b["norm2.bias"])) * b["ls2.gamma"]

        for branch, which in ((attend, 0), (feed_forward, 1)):
            picked = slice(None) if kept is None else kept[i][which]
            x = x.at[picked].add(branch(x[picked]) * (batch / len(x[picked])))
    norm = "cls_norm" if "cls_norm.weight" in p else "norm"
    norm = "local_cls_norm" if local and "local_cls_norm.weight" in p else norm
    normalized = [
        layer_norm(x[:, :front], p[f"{norm}.weight"], p[f"{norm}.bias"]),
        layer_norm(x[:, front:], p["norm.weight"], p["norm.bias"]),
    ]
    return jnp.concatenate(normalized, 1), x
