"""DINO written a second time: plain functions over official names, no Linen, no optax, loops.

Gradients come from jax.grad of the plain loss; clipping, AdamW, freeze, EMA and center are NumPy.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

Tensors = dict[str, np.ndarray]


def layer_norm(x, weight, bias):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + 1e-6) * weight + bias


def gelu(x):
    return x * 0.5 * (1 + jax.scipy.special.erf(x / math.sqrt(2)))


def bicubic_table(table, out_h, out_w):
    """Every output position from its 4 x 4 neighbours; a = -0.75, clamped borders."""

    def kernel(t):
        t, a = abs(t), -0.75
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0

    height, width, dim = table.shape
    weights = np.zeros((out_h, out_w, height, width), np.float32)
    for i in range(out_h):
        y = (i + 0.5) * height / (out_h + 0.1) - 0.5
        for j in range(out_w):
            x = (j + 0.5) * width / (out_w + 0.1) - 0.5
            for v in range(math.floor(y) - 1, math.floor(y) + 3):
                for u in range(math.floor(x) - 1, math.floor(x) + 3):
                    border = min(max(v, 0), height - 1), min(max(u, 0), width - 1)
                    weights[i, j][border] += kernel(y - v) * kernel(x - u)
    return weights.reshape(out_h * out_w, -1) @ table.reshape(-1, dim)


def backbone(p, images, *, patch, depth, heads, table_size):
    """[B, 3, H, W] -> [B, D] cls tokens."""
    batch, _, height, width = images.shape
    rows, columns = height // patch, width // patch
    kernel, bias = p["backbone.patch_embed.proj.weight"], p["backbone.patch_embed.proj.bias"]
    patches = [
        jnp.einsum(
            "bchw,dchw->bd",
            images[:, :, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch],
            kernel,
        )
        + bias
        for r in range(rows)
        for c in range(columns)
    ]
    dim = kernel.shape[0]
    positions = p["backbone.pos_embed"][0]
    if rows * columns != table_size**2 or height != width:
        table = positions[1:].reshape(table_size, table_size, dim)
        positions = jnp.concatenate([positions[:1], bicubic_table(table, rows, columns)])
    cls = jnp.broadcast_to(p["backbone.cls_token"][0], (batch, 1, dim))
    x = jnp.concatenate([cls, jnp.stack(patches, 1)], axis=1) + positions
    for i in range(depth):
        b = {
            k.removeprefix(f"backbone.blocks.{i}."): v for k, v in p.items() if f"blocks.{i}." in k
        }
        y = layer_norm(x, b["norm1.weight"], b["norm1.bias"])
        qkv = y @ b["attn.qkv.weight"].T + b["attn.qkv.bias"]
        size, mixed = dim // heads, []
        for h in range(heads):
            q, k, v = (qkv[..., n * dim + h * size : n * dim + (h + 1) * size] for n in range(3))
            scores = q @ jnp.swapaxes(k, 1, 2) * size**-0.5
            weights = jnp.exp(scores - scores.max(-1, keepdims=True))
            mixed.append(weights / weights.sum(-1, keepdims=True) @ v)
        x = x + jnp.concatenate(mixed, -1) @ b["attn.proj.weight"].T + b["attn.proj.bias"]
        y = layer_norm(x, b["norm2.weight"], b["norm2.bias"])
        y = gelu(y @ b["mlp.fc1.weight"].T + b["mlp.fc1.bias"])
        x = x + y @ b["mlp.fc2.weight"].T + b["mlp.fc2.bias"]
    return layer_norm(x, p["backbone.norm.weight"], p["backbone.norm.bias"])[:, 0]


def head(p, x):
    x = gelu(x @ p["head.mlp.0.weight"].T + p["head.mlp.0.bias"])
    x = gelu(x @ p["head.mlp.2.weight"].T + p["head.mlp.2.bias"])
    x = x @ p["head.mlp.4.weight"].T + p["head.mlp.4.bias"]
    x = x / jnp.sqrt((x**2).sum(-1, keepdims=True))
    v = p["head.last_layer.weight_v"]
    return x @ (p["head.last_layer.weight_g"] * v / jnp.sqrt((v**2).sum(-1, keepdims=True))).T


def softmax(x):
    e = jnp.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class PlainDino:
    """The official loop of one process; `student` and `teacher` hold the tensors."""

    def __init__(self, tensors: Tensors, model: dict, *, lr, weight_decay, momentum, temperature,
                 clip, frozen_steps, train_gain):  # fmt: skip
        self.student = {k: v.astype(np.float32) for k, v in tensors.items()}
        self.teacher = {k: v.copy() for k, v in self.student.items()}
        self.model, self.clip, self.frozen_steps = model, clip, frozen_steps
        self.lr, self.weight_decay = lr, weight_decay
        self.momentum, self.temperature = momentum, temperature
        self.trained = [k for k in tensors if train_gain or not k.endswith("weight_g")]
        prototypes = tensors["head.last_layer.weight_v"].shape[0]
        self.center = np.zeros(prototypes, np.float32)
        self.moments = dict.fromkeys(self.trained, (0.0, 0.0, 0))
        self.done = 0
        self.value_and_grad = jax.jit(jax.value_and_grad(self.loss, has_aux=True))

    def logits(self, p, crops):
        return [head(p, backbone(p, crop, **self.model)) for crop in crops]

    def loss(self, trained, fixed, teacher, crops, center, temperature):
        student = self.logits({**fixed, **trained}, crops)
        targets = self.logits(teacher, crops[:2])
        terms = []
        for i, target in enumerate(targets):
            q = jax.lax.stop_gradient(softmax((target - center) / temperature))
            for j, logit in enumerate(student):
                if i != j:
                    terms.append(jnp.mean(-jnp.sum(q * jnp.log(softmax(logit / 0.1)), -1)))
        return sum(terms) / len(terms), jnp.concatenate(targets)

    def step(self, crops: list[np.ndarray]) -> float:
        """One update from a list of [B, 3, H, W] crops, global ones first."""
        t = self.done
        trained = {k: self.student[k] for k in self.trained}
        fixed = {k: v for k, v in self.student.items() if k not in trained}
        (loss, teacher_logits), grads = self.value_and_grad(
            trained, fixed, self.teacher, crops, self.center, self.temperature[t]
        )
        for name in self.trained:
            self._adamw(name, np.asarray(grads[name]), t)
        m = self.momentum[t]
        for name in self.teacher:
            self.teacher[name] = (
                np.float32(m) * self.teacher[name] + np.float32(1 - m) * self.student[name]
            )
        self.center = 0.9 * self.center + 0.1 * np.asarray(teacher_logits).mean(0)
        self.done += 1
        return float(loss)

    def _adamw(self, name: str, grad: np.ndarray, t: int) -> None:
        if self.clip:
            grad = grad * min(1.0, self.clip / (np.linalg.norm(grad) + 1e-6))
        if "last_layer" in name and t < self.frozen_steps:
            return
        p = self.student[name]
        if p.ndim > 1 and not name.endswith(".bias"):
            p = p * np.float32(1 - self.lr[t] * self.weight_decay[t])
        first, second, count = self.moments[name]
        first, second, count = 0.9 * first + 0.1 * grad, 0.999 * second + 0.001 * grad**2, count + 1
        self.moments[name] = first, second, count
        denominator = np.sqrt(second / (1 - 0.999**count)) + 1e-8
        self.student[name] = (p - self.lr[t] * first / (1 - 0.9**count) / denominator).astype(
            np.float32
        )
