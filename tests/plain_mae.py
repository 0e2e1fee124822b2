"""MAE written a second time: plain functions over official names, no Linen, no optax, loops.

Gradients come from jax.grad of the plain loss; AdamW is NumPy.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dino_jax.weights import from_torch
from tests.plain_dino import gelu, layer_norm

Tensors = dict[str, np.ndarray]
TABLES = ("pos_embed", "decoder_pos_embed")


def block(p, prefix, x, heads):
    b = {k.removeprefix(prefix): v for k, v in p.items() if k.startswith(prefix)}
    dim = x.shape[-1]
    y = layer_norm(x, b["norm1.weight"], b["norm1.bias"])
    qkv = y @ b["attn.qkv.weight"].T + b["attn.qkv.bias"]
    size, mixed = dim // heads, []
    for h in range(heads):
        q, k, v = (qkv[..., n * dim + h * size : n * dim + (h + 1) * size] for n in range(3))
        mixed.append(jax.nn.softmax(q @ jnp.swapaxes(k, 1, 2) * size**-0.5, -1) @ v)
    x = x + jnp.concatenate(mixed, -1) @ b["attn.proj.weight"].T + b["attn.proj.bias"]
    y = layer_norm(x, b["norm2.weight"], b["norm2.bias"])
    y = gelu(y @ b["mlp.fc1.weight"].T + b["mlp.fc1.bias"])
    return x + y @ b["mlp.fc2.weight"].T + b["mlp.fc2.bias"]


def cut(images, patch):
    """[B, 3, H, W] -> list over patches of [B, 3, p, p]."""
    _, _, height, width = images.shape
    return [
        images[:, :, r : r + patch, c : c + patch]
        for r in range(0, height, patch)
        for c in range(0, width, patch)
    ]


def encode(p, images, order, kept, *, patch, depth, heads):
    """Tokens [B, 1 + k, D] of the cls token and the first `kept` patches of `order` [B, N]."""
    kernel, bias = p["patch_embed.proj.weight"], p["patch_embed.proj.bias"]
    patches = [jnp.einsum("bchw,dchw->bd", x, kernel) + bias for x in cut(images, patch)]
    positions = p["pos_embed"][0]
    patches = [x + positions[1 + n] for n, x in enumerate(patches)]
    shuffled = [jnp.stack(patches, 1)[i][row] for i, row in enumerate(order)]
    visible = jnp.stack(shuffled)[:, :kept]
    cls = jnp.broadcast_to(p["cls_token"] + positions[0], (len(images), 1, kernel.shape[0]))
    x = jnp.concatenate([cls, visible], axis=1)
    for i in range(depth):
        x = block(p, f"blocks.{i}.", x, heads)
    return layer_norm(x, p["norm.weight"], p["norm.bias"])


def decode(p, latent, order, *, depth, heads):
    """Predictions [B, N, p * p * 3] of all patches: mask tokens at the end, then unshuffled."""
    x = latent @ p["decoder_embed.weight"].T + p["decoder_embed.bias"]
    rows = []
    for i, row in enumerate(order):
        missing = len(row) - (x.shape[1] - 1)
        tokens = jnp.concatenate([x[i, 1:], jnp.repeat(p["mask_token"][0], missing, 0)])
        rows.append(jnp.concatenate([x[i, :1], tokens[jnp.argsort(row)]]))
    x = jnp.stack(rows) + p["decoder_pos_embed"]
    for i in range(depth):
        x = block(p, f"decoder_blocks.{i}.", x, heads)
    x = layer_norm(x, p["decoder_norm.weight"], p["decoder_norm.bias"])
    return (x @ p["decoder_pred.weight"].T + p["decoder_pred.bias"])[:, 1:]


def loss(p, images, order, kept, encoder, decoder, normalize):
    predictions = decode(p, encode(p, images, order, kept, **encoder), order, **decoder)
    targets = jnp.stack(cut(images, encoder["patch"]), 1).transpose(0, 1, 3, 4, 2)
    targets = targets.reshape(predictions.shape)
    if normalize:
        deviation = jnp.sqrt(targets.var(-1, ddof=1, keepdims=True) + 1e-6)
        targets = (targets - targets.mean(-1, keepdims=True)) / deviation
    errors = ((predictions - targets) ** 2).mean(-1)
    return jnp.stack([errors[i][row[kept:]] for i, row in enumerate(order)]).mean()


def to_ours(official: Tensors, like) -> dict:
    """Official tensors as variables of a network whose decoder is the head "decoder"."""
    params = like["params"]
    encoder = {
        k: v for k, v in official.items() if k != "mask_token" and not k.startswith("decoder_")
    }
    backbone = from_torch(encoder, {"params": {"backbone": params["backbone"]}})
    own = {k.removeprefix("decoder_"): v for k, v in official.items() if k not in encoder}
    linear = {
        ours: {"kernel": own[f"{theirs}.weight"].T, "bias": own[f"{theirs}.bias"]}
        for ours, theirs in {"embed": "embed", "predict": "pred"}.items()
    }
    # A block of the decoder is one of a ViT: its names go the same way.
    shapes = {"blocks": params["heads_decoder"]["blocks"]}
    blocks = {k: v for k, v in own.items() if k.startswith("blocks.")}
    stack = from_torch(blocks, {"params": {"backbone": shapes}})["params"]["backbone"]
    norm = {"scale": own["norm.weight"], "bias": own["norm.bias"]}
    tokens = {"mask_token": own["mask_token"], "pos_embed": own["pos_embed"]}
    return {
        "params": {
            "backbone": backbone["params"]["backbone"],
            "heads_decoder": {**linear, **stack, "norm": norm, **tokens},
        }
    }


class PlainMae:
    """The official loop of one process: per-step rates, AdamW (0.9, 0.95) in two groups."""

    def __init__(self, tensors: Tensors, *, kept, encoder, decoder, normalize, lr, weight_decay):
        self.tensors = {k: np.asarray(v, np.float32) for k, v in tensors.items()}
        self.lr, self.weight_decay = lr, weight_decay
        self.trained = [k for k in tensors if k not in TABLES]
        fixed = {k: self.tensors[k] for k in TABLES}

        def of_trained(trained, images, order):
            return loss({**fixed, **trained}, images, order, kept, encoder, decoder, normalize)

        self.value_and_grad = jax.jit(jax.value_and_grad(of_trained))
        self.moments = dict.fromkeys(self.trained, (0.0, 0.0))
        self.done = 0

    def step(self, images: np.ndarray, order: np.ndarray) -> float:
        """One update from [B, 3, H, W] images; the first patches of `order` [B, N] are seen."""
        trained = {k: self.tensors[k] for k in self.trained}
        value, grads = self.value_and_grad(trained, images, order)
        lr, count = self.lr[self.done], self.done + 1
        for name in self.trained:
            grad, p = np.asarray(grads[name]), self.tensors[name]
            if p.ndim > 1:  # tokens, too
                p = p * np.float32(1 - lr * self.weight_decay)
            first, second = self.moments[name]
            first, second = 0.9 * first + 0.1 * grad, 0.95 * second + 0.05 * grad**2
            self.moments[name] = first, second
            denominator = np.sqrt(second / (1 - 0.95**count)) + 1e-8
            self.tensors[name] = np.asarray(
                p - lr * first / (1 - 0.9**count) / denominator, np.float32
            )
        self.done += 1
        return float(value)
