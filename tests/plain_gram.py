"""DINOv3's step with Gram anchoring written a second time, after the notes on the official code.

Crops are in the official order: all images' first crops, then all their second ones. What it shares
with DINOv2 comes from plain_dinov2.py; gradients from jax.grad; the rest is NumPy.
"""

import jax
import jax.numpy as jnp
import numpy as np

from tests.plain_dino import Tensors, gelu, layer_norm, softmax
from tests.plain_dinov2 import PlainDinoV2, cross_entropy, ffn, koleo, sinkhorn
from tests.plain_dinov2 import backbone as learned_backbone


def rope_angles(rows, columns, width, base=100.0):
    """[N, width] angles: of the rows, then of the columns, the two twice."""
    periods = base ** (2 * np.arange(width // 4) / (width // 2))
    angles = []
    for i in range(rows):
        for j in range(columns):
            place = [2 * (i + 0.5) / rows - 1, 2 * (j + 0.5) / columns - 1]
            angles.append(np.tile([2 * np.pi * x / p for x in place for p in periods], 2))
    return np.asarray(angles, np.float32)


def rotate(x, angles):
    """x [B, T, width]; tokens in front of the patches stay as they are."""
    front = x.shape[1] - len(angles)
    prefix, patches = x[:, :front], x[:, front:]
    half = x.shape[-1] // 2
    turned = jnp.concatenate([-patches[..., half:], patches[..., :half]], -1)
    patches = patches * np.cos(angles) + turned * np.sin(angles)
    return jnp.concatenate([prefix, patches], axis=1)


def attention(b, x, heads, angles):
    """The bias of the keys does not count."""
    dim = x.shape[-1]
    size, mixed = dim // heads, []
    bias = b["attn.qkv.bias"] * np.repeat([1.0, 0.0, 1.0], dim).astype(np.float32)
    qkv = x @ b["attn.qkv.weight"].T + bias
    for h in range(heads):
        q, k, v = (qkv[..., n * dim + h * size : n * dim + (h + 1) * size] for n in range(3))
        q, k = rotate(q, angles), rotate(k, angles)
        mixed.append(softmax(q @ jnp.swapaxes(k, 1, 2) * size**-0.5) @ v)
    return jnp.concatenate(mixed, -1) @ b["attn.proj.weight"].T + b["attn.proj.bias"]


def rope_backbone(p, images, model, masks=None):
    """[B, 3, H, W] -> [B, T, D], final norm included: cls, registers, patches."""
    side, (batch, _, height, width) = model["patch"], images.shape
    rows, columns = height // side, width // side
    kernel, bias = p["backbone.patch_embed.proj.weight"], p["backbone.patch_embed.proj.bias"]
    patches = []
    for r in range(rows):
        for c in range(columns):
            window = images[:, :, r * side : (r + 1) * side, c * side : (c + 1) * side]
            patches.append(jnp.einsum("bchw,dchw->bd", window, kernel) + bias)
    x = jnp.stack(patches, axis=1)
    if masks is not None:
        x = jnp.where(masks[:, :, None], p["backbone.mask_token"][0], x)
    front = [p["backbone.cls_token"][0], p["backbone.register_tokens"][0]]
    front = jnp.broadcast_to(jnp.concatenate(front), (batch, 1 + model["registers"], x.shape[-1]))
    x = jnp.concatenate([front, x], axis=1)
    angles = rope_angles(rows, columns, x.shape[-1] // model["heads"])
    for i in range(model["depth"]):
        prefix = f"backbone.blocks.{i}."
        b = {name.removeprefix(prefix): v for name, v in p.items() if name.startswith(prefix)}
        y = layer_norm(x, b["norm1.weight"], b["norm1.bias"])
        x = x + attention(b, y, model["heads"], angles) * b["ls1.gamma"]
        x = x + ffn(b, layer_norm(x, b["norm2.weight"], b["norm2.bias"])) * b["ls2.gamma"]
    return layer_norm(x, p["backbone.norm.weight"], p["backbone.norm.bias"])


def head(p, name, x):
    """The last layer is plain."""
    x = gelu(x @ p[f"{name}.mlp.0.weight"].T + p[f"{name}.mlp.0.bias"])
    x = gelu(x @ p[f"{name}.mlp.2.weight"].T + p[f"{name}.mlp.2.bias"])
    x = x @ p[f"{name}.mlp.4.weight"].T + p[f"{name}.mlp.4.bias"]
    x = x / jnp.sqrt((x**2).sum(-1, keepdims=True))
    return x @ p[f"{name}.last_layer.weight"].T


def cubic(distance):
    """Keys' kernel with a = -0.75."""
    d = abs(distance)
    if d <= 1:
        return 1.25 * d**3 - 2.25 * d**2 + 1
    return -0.75 * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def shrink(maps, rows, columns):
    """[B, H, W, D] -> [B, rows * columns, D]: a sum over 4 x 4 neighbours, edges repeated."""
    _, height, width, _ = maps.shape
    result = []
    for r in range(rows):
        for c in range(columns):
            y, x = (r + 0.5) * height / rows - 0.5, (c + 0.5) * width / columns - 0.5
            total = 0.0
            for i in range(int(np.floor(y)) - 1, int(np.floor(y)) + 3):
                for j in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
                    weight = cubic(y - i) * cubic(x - j)
                    place = min(max(i, 0), height - 1), min(max(j, 0), width - 1)
                    total = total + weight * maps[:, place[0], place[1]]
            result.append(total)
    return jnp.stack(result, axis=1)


def similarities(x):
    x = x / jnp.sqrt((x**2).sum(-1, keepdims=True))
    return jnp.stack([one @ one.T for one in x])


class PlainGram(PlainDinoV2):
    """The official step of one process; `student`, `teacher` and `anchor` hold the tensors.

    `model["rope"]` chooses the backbone above, else it is DINOv2's with learned positions.
    Schedules are arrays over the steps. `refresh` = (first, every, most) of the anchor's copies.
    """

    def __init__(self, tensors: Tensors, model: dict, *, schedules, layer_decay, clip,
                 frozen_steps, refresh):  # fmt: skip
        self.student, self.teacher, self.anchor = (
            {name: value.copy() for name, value in tensors.items()} for _ in range(3)
        )
        self.model, self.schedules, self.refresh = model, schedules, refresh
        self.layer_decay, self.clip, self.frozen_steps = layer_decay, clip, frozen_steps
        self.moments = dict.fromkeys(tensors, (0.0, 0.0))
        self.done = self.copies = 0
        self.gradient = jax.jit(jax.grad(self.loss, has_aux=True))
        self.tokens = jax.jit(self.backbone)
        self.logits = jax.jit(self.teacher_logits)

    def backbone(self, p, images, masks=None):
        if self.model["rope"]:
            return rope_backbone(p, images, self.model, masks)
        return learned_backbone(p, images, self.model, masks)

    def patches(self, tokens):
        return tokens[:, 1 + self.model["registers"] :]

    def teacher_logits(self, p, globals_, masked):
        tokens = self.backbone(p, globals_)
        patches = self.patches(tokens).reshape(-1, tokens.shape[-1])[masked]
        return head(p, "dino_head", tokens[:, 0]), head(p, "ibot_head", patches)

    def loss(self, p, globals_, locals_, masks, masked, targets, anchors, weights):
        images = len(globals_) // 2
        views = len(locals_) // images
        tokens = self.backbone(p, globals_, masks)
        local_cls = self.backbone(p, locals_)[:, 0]
        students = jnp.split(head(p, "dino_head", tokens[:, 0]), 2)
        teachers = jnp.split(targets[0], 2)
        locals_of = jnp.split(head(p, "dino_head", local_cls), views)
        global_loss = sum(cross_entropy(teachers[i], students[1 - i]).mean() for i in range(2)) / 2
        local_loss = sum(cross_entropy(t, s).mean() for s in locals_of for t in teachers) / (
            2 * views
        )
        patches = self.patches(tokens)
        masked_logits = head(p, "ibot_head", patches.reshape(-1, patches.shape[-1])[masked])
        per_crop = masks.sum(1)[masked // masks.shape[1]]
        ibot = (cross_entropy(targets[1], masked_logits) / per_crop).sum() / (2 * images)
        gram = ((similarities(patches) - similarities(anchors)) ** 2).mean()
        spread = sum(koleo(x) for x in jnp.split(tokens[:, 0], 2))
        pairs = 2 + 2 * views
        total = (
            2 / pairs * global_loss
            + weights["local"] * 2 * views / pairs * local_loss
            + 0.1 * spread
            + ibot
            + weights["gram"] * gram
        )
        logged = {"global": global_loss, "local": local_loss, "koleo": spread, "ibot": ibot}
        return total, {**logged, "gram": gram}

    def step(self, globals_, locals_, masks, larger) -> dict[str, float]:
        """One update; `larger` are the anchor's crops of the boxes of `globals_`."""
        t, masked = self.done, np.flatnonzero(masks)
        cls, patches = self.logits(self.teacher, globals_, masked)
        temperature = self.schedules["temperature"][t]
        targets = sinkhorn(cls, temperature), sinkhorn(patches, temperature)
        anchors = self.patches(self.tokens(self.anchor, larger))
        side = int(anchors.shape[1] ** 0.5)
        maps = anchors.reshape(len(anchors), side, side, -1)
        small = int(masks.shape[1] ** 0.5)
        anchors = shrink(maps, small, small)
        weights = {name: self.schedules[name][t] for name in ("local", "gram")}
        grads, logged = self.gradient(
            self.student, globals_, locals_, masks, masked, targets, anchors, weights
        )
        self._update(grads, t)
        self.done += 1
        first, every, most = self.refresh
        if self.done >= first and self.done % every == 0 and self.copies < most:
            self.anchor = {name: value.copy() for name, value in self.teacher.items()}
            self.copies += 1
        return {name: float(value) for name, value in logged.items()}
