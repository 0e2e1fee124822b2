"""DINOv2 written a second time, after the notes on the official code: loops, official names.

Crops are in the official order: all images' first crops, then all their second ones. What both
codes share comes from plain_dino.py; gradients from jax.grad; clipping, AdamW and EMA are NumPy.
"""

import jax
import jax.numpy as jnp
import numpy as np

from tests.plain_dino import Tensors, bicubic_table, gelu, layer_norm, softmax


def positions(p, rows, columns, table_size, registers):
    """Learned positions, resampled to another grid; register models have an antialiased kernel."""
    table = p["backbone.pos_embed"][0]
    if rows == columns == table_size:
        return table
    grid = table[1:].reshape(table_size, table_size, -1)
    if registers:
        shape = (rows, columns, grid.shape[-1])
        patches = jax.image.resize(grid, shape, "cubic", antialias=True).reshape(-1, shape[-1])
    else:
        patches = bicubic_table(grid, rows, columns)
    return jnp.concatenate([table[:1], patches])


def attention(b, x, heads):
    dim = x.shape[-1]
    size, mixed = dim // heads, []
    qkv = x @ b["attn.qkv.weight"].T + b["attn.qkv.bias"]
    for h in range(heads):
        q, k, v = (qkv[..., n * dim + h * size : n * dim + (h + 1) * size] for n in range(3))
        mixed.append(softmax(q @ jnp.swapaxes(k, 1, 2) * size**-0.5) @ v)
    return jnp.concatenate(mixed, -1) @ b["attn.proj.weight"].T + b["attn.proj.bias"]


def ffn(b, x):
    if "mlp.w12.weight" in b:
        gate, value = jnp.split(x @ b["mlp.w12.weight"].T + b["mlp.w12.bias"], 2, axis=-1)
        return (gate / (1 + jnp.exp(-gate)) * value) @ b["mlp.w3.weight"].T + b["mlp.w3.bias"]
    x = gelu(x @ b["mlp.fc1.weight"].T + b["mlp.fc1.bias"])
    return x @ b["mlp.fc2.weight"].T + b["mlp.fc2.bias"]


def add_branch(x, branch, kept):
    """Adds a residual branch, to the kept rows only if there are any, scaled by b / k."""
    if kept is None:
        return x + branch(x)
    return x.at[kept].add(branch(x[kept]) * (len(x) / len(kept)))


def backbone(p, images, model, masks=None, kept=None):
    """[B, 3, H, W] -> [B, T, D]; kept[block] = (rows of the attention, rows of the FFN)."""
    size, registers = model["patch"], model["registers"]
    batch, _, height, width = images.shape
    rows, columns = height // size, width // size
    kernel, bias = p["backbone.patch_embed.proj.weight"], p["backbone.patch_embed.proj.bias"]
    patches = []
    for r in range(rows):
        for c in range(columns):
            window = images[:, :, r * size : (r + 1) * size, c * size : (c + 1) * size]
            patches.append(jnp.einsum("bchw,dchw->bd", window, kernel) + bias)
    patches = jnp.stack(patches, axis=1)
    if masks is not None:
        patches = jnp.where(masks[:, :, None], p["backbone.mask_token"][0], patches)
    cls = jnp.broadcast_to(p["backbone.cls_token"][0], (batch, 1, patches.shape[-1]))
    x = jnp.concatenate([cls, patches], 1)
    x = x + positions(p, rows, columns, model["table_size"], registers)
    if registers:
        tokens = jnp.broadcast_to(
            p["backbone.register_tokens"][0], (batch, registers, cls.shape[-1])
        )
        x = jnp.concatenate([x[:, :1], tokens, x[:, 1:]], axis=1)
    for i in range(model["depth"]):
        prefix = f"backbone.blocks.{i}."
        b = {name.removeprefix(prefix): v for name, v in p.items() if name.startswith(prefix)}

        def attend(y, b=b):
            y = attention(b, layer_norm(y, b["norm1.weight"], b["norm1.bias"]), model["heads"])
            return y * b["ls1.gamma"]

        def feed_forward(y, b=b):
            return ffn(b, layer_norm(y, b["norm2.weight"], b["norm2.bias"])) * b["ls2.gamma"]

        for branch, which in ((attend, 0), (feed_forward, 1)):
            x = add_branch(x, branch, None if kept is None else kept[i][which])
    return layer_norm(x, p["backbone.norm.weight"], p["backbone.norm.bias"])


def head(p, name, x):
    x = gelu(x @ p[f"{name}.mlp.0.weight"].T + p[f"{name}.mlp.0.bias"])
    x = gelu(x @ p[f"{name}.mlp.2.weight"].T + p[f"{name}.mlp.2.bias"])
    x = x @ p[f"{name}.mlp.4.weight"].T + p[f"{name}.mlp.4.bias"]
    x = x / jnp.sqrt((x**2).sum(-1, keepdims=True))
    v = p[f"{name}.last_layer.weight_v"]
    return x @ (p[f"{name}.last_layer.weight_g"] * v / jnp.sqrt((v**2).sum(-1, keepdims=True))).T


def sinkhorn(logits, temperature):
    """Three rounds on the exponentials themselves, as the official code."""
    q = jnp.exp(logits / temperature).T
    q = q / q.sum()
    prototypes, samples = q.shape
    for _ in range(3):
        q = q / q.sum(1, keepdims=True) / prototypes
        q = q / q.sum(0, keepdims=True) / samples
    return (q * samples).T


def cross_entropy(targets, logits):
    return -(targets * jnp.log(softmax(logits / 0.1))).sum(-1)


def koleo(x):
    """One group of cls tokens; the neighbour moves, its choice does not."""
    x = x / jnp.maximum(jnp.sqrt((x**2).sum(-1, keepdims=True)), 1e-8)
    similarity = jnp.where(jnp.eye(len(x), dtype=bool), -1.0, jax.lax.stop_gradient(x @ x.T))
    difference = x - x[jnp.argmax(similarity, axis=1)] + 1e-8
    return -jnp.log(jnp.sqrt((difference**2).sum(-1)) + 1e-8).mean()


class PlainDinoV2:
    """The official step of one process; `student` and `teacher` hold the tensors.

    `centering` is "centering" or "sinkhorn_knopp"; patches go through "ibot_head" if there is one,
    else through "dino_head". Schedules are arrays over the steps. Centers are the only state.
    """

    def __init__(self, tensors: Tensors, model: dict, *, centering, schedules, layer_decay, clip,
                 frozen_steps):  # fmt: skip
        self.student = {name: value.copy() for name, value in tensors.items()}
        self.teacher = {name: value.copy() for name, value in tensors.items()}
        self.model, self.centering, self.schedules = model, centering, schedules
        self.layer_decay, self.clip, self.frozen_steps = layer_decay, clip, frozen_steps
        self.ibot_head = "ibot_head" if "ibot_head.mlp.0.weight" in tensors else "dino_head"
        self.centers = {
            kind: np.zeros(len(tensors[f"{name}.last_layer.weight_v"]), np.float32)
            for kind, name in (("dino", "dino_head"), ("ibot", self.ibot_head))
        }
        self.moments = dict.fromkeys(tensors, (0.0, 0.0))
        self.done = 0
        self.gradient = jax.jit(jax.grad(self.loss, has_aux=True))
        self.logits = jax.jit(self.teacher_logits)

    def targets(self, kind, logits, temperature):
        if self.centering == "sinkhorn_knopp":
            return sinkhorn(logits, temperature)
        return softmax((logits - self.centers[kind]) / temperature)

    def teacher_logits(self, p, globals_, masked):
        """Logits of the two cls tokens, swapped, and of the masked patches."""
        tokens = backbone(p, globals_, self.model)
        first, second = jnp.split(tokens[:, 0], 2)
        patches = tokens[:, 1 + self.model["registers"] :].reshape(-1, tokens.shape[-1])
        cls = head(p, "dino_head", jnp.concatenate([second, first]))
        return {"dino": cls, "ibot": head(p, self.ibot_head, patches[masked])}

    def teach(self, globals_, masked, temperature):
        """Targets of both kinds; then moves the centers."""
        logits = self.logits(self.teacher, globals_, masked)
        targets = {kind: self.targets(kind, x, temperature) for kind, x in logits.items()}
        for kind, x in logits.items():
            mean = np.asarray(x).mean(0)
            self.centers[kind] = np.float32(0.9) * self.centers[kind] + np.float32(0.1) * mean
        return targets

    def loss(self, p, globals_, locals_, masks, masked, targets, kept):
        images, registers = len(globals_) // 2, self.model["registers"]
        views = len(locals_) // images
        tokens = backbone(p, globals_, self.model, masks, kept["global"])
        local_cls = backbone(p, locals_, self.model, None, kept["local"])[:, 0]
        local_logits = jnp.split(head(p, "dino_head", local_cls), views)
        pairs = 2 * views + 2
        local = sum(
            cross_entropy(target, logits).mean()
            for logits in local_logits
            for target in jnp.split(targets["dino"], 2)
        )
        same = cross_entropy(targets["dino"], head(p, "dino_head", tokens[:, 0])).mean()
        patches = tokens[:, 1 + registers :].reshape(-1, tokens.shape[-1])[masked]
        patch_losses = cross_entropy(targets["ibot"], head(p, self.ibot_head, patches))
        per_crop = masks.sum(1)[masked // masks.shape[1]]
        logged = {
            "dino_local_crops_loss": local / pairs,
            "dino_global_crops_loss": 2 * same / pairs,
            "koleo_loss": 0.1 * sum(koleo(x) for x in jnp.split(tokens[:, 0], 2)) / 2,
            "ibot_loss": (patch_losses / per_crop).sum() / (2 * images) / 2,
        }
        total = logged["dino_local_crops_loss"] + logged["dino_global_crops_loss"]
        return total + 2 * logged["koleo_loss"] + 2 * logged["ibot_loss"], logged

    def step(self, globals_, locals_, masks, kept) -> dict[str, float]:
        """One update; `masks` are bool [2B, N], `kept` the rows of each branch, None for all."""
        t, masked = self.done, np.flatnonzero(masks)
        targets = self.teach(globals_, masked, self.schedules["temperature"][t])
        grads, logged = self.gradient(self.student, globals_, locals_, masks, masked, targets, kept)
        self._update(grads, t)
        self.done += 1
        return {name: float(value) for name, value in logged.items()}

    def _update(self, grads: Tensors, t: int) -> None:
        """Clips by module, moves the student by AdamW and the teacher after it."""
        for module in ("backbone", "dino_head", "ibot_head"):
            names = [name for name in self.student if name.startswith(f"{module}.")]
            norm = np.sqrt(sum(float((np.asarray(grads[name]) ** 2).sum()) for name in names))
            for name in names:
                scale = np.float32(min(1.0, self.clip / (norm + 1e-6)))
                self._adamw(name, scale * np.asarray(grads[name]), t)
        m = self.schedules["momentum"][t]
        for name, value in self.student.items():
            self.teacher[name] = np.float32(m) * self.teacher[name] + np.float32(1 - m) * value

    def _adamw(self, name: str, grad: np.ndarray, t: int) -> None:
        lr = self.schedules["lr"][t] * self._multiplier(name)
        lr = 0.0 if "last_layer" in name and t < self.frozen_steps else lr
        decays = not (name.endswith(".bias") or "norm" in name or "gamma" in name)
        decay = self.schedules["weight_decay"][t] if decays else 0.0
        first, second = self.moments[name]
        first, second = 0.9 * first + 0.1 * grad, 0.999 * second + 0.001 * grad**2
        self.moments[name] = first, second
        denominator = np.sqrt(second / (1 - 0.999 ** (t + 1))) + 1e-8
        p = self.student[name] * np.float32(1 - lr * decay)
        self.student[name] = (p - lr * first / (1 - 0.9 ** (t + 1)) / denominator).astype(
            np.float32
        )

    def _multiplier(self, name: str) -> float:
        depth, layer = self.model["depth"], self.model["depth"] + 1
        if name.startswith("backbone.blocks."):
            layer = int(name.split(".")[2]) + 1
        elif name.startswith("backbone.") and not name.startswith("backbone.norm."):
            layer = 0
        rate = self.layer_decay ** (depth + 1 - layer)
        return rate * (0.2 if "patch_embed" in name else 1.0)
