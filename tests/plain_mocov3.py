"""MoCo v3 written a second time: plain functions over official names, no Linen, no optax.

Gradients come from jax.grad of the plain loss; AdamW, the momentum encoder and the statistics of
BatchNorm are NumPy. The ViT is that of tests/plain_dino.py.
"""

import jax
import jax.numpy as jnp
import numpy as np

from tests.plain_dino import Tensors, backbone

FIXED = ("pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias")


def sequence(p, x):
    """Layers "0.weight", "1.…", … of torch's Sequential: Linear, BatchNorm and ReLU in turn.

    Returns:
      The output, and the mean and unbiased variance of every BatchNorm by number.
    """
    count, statistics, number = len(x), {}, 0
    numbers = sorted({int(name.partition(".")[0]) for name in p})
    while number <= numbers[-1]:
        x = x @ p[f"{number}.weight"].T
        if f"{number + 1}.running_mean" in p:
            mean, variance = x.mean(0), ((x - x.mean(0)) ** 2).mean(0)
            statistics[number + 1] = (mean, variance * count / (count - 1))
            x = (x - mean) / jnp.sqrt(variance + 1e-5)
            x = x * p.get(f"{number + 1}.weight", 1.0) + p.get(f"{number + 1}.bias", 0.0)
        if number + 3 <= numbers[-1]:
            x = jnp.maximum(x, 0)
        number += 3
    return x, statistics


def below(tensors, prefix):
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def unit(x):
    return x / jnp.sqrt((x**2).sum(-1, keepdims=True))


def contrast(q, k, temperature):
    logits = unit(q) @ unit(k).T / temperature
    shifted = jnp.exp(logits - logits.max(1, keepdims=True))
    right = jnp.diagonal(shifted) / shifted.sum(1)
    return -2 * temperature * jnp.log(right).mean()


class PlainMocoV3:
    """The official loop of one process.

    `base`, `momentum` ("cls_token", …, "head.0.weight", …) and `predictor` ("0.weight", …) hold the
    tensors of the three modules, with the running statistics.
    """

    def __init__(self, base: Tensors, momentum: Tensors, predictor: Tensors, model: dict, *, lr,
                 weight_decay, momenta, temperature):  # fmt: skip
        self.base, self.momentum, self.predictor = (
            {k: v.astype(np.float32) for k, v in tensors.items()}
            for tensors in (base, momentum, predictor)
        )
        self.model, self.temperature = model, temperature
        self.lr, self.weight_decay, self.momenta = lr, weight_decay, momenta
        self.moments: dict[str, tuple] = {}
        self.done = 0
        self.value_and_grad = jax.jit(jax.value_and_grad(self.loss, has_aux=True))

    def encode(self, tensors, images):
        prefixed = {f"backbone.{k}": v for k, v in tensors.items() if not k.startswith("head.")}
        return sequence(below(tensors, "head."), backbone(prefixed, images, **self.model))

    def loss(self, trained, fixed, momentum, views):
        every = {**fixed, **trained}
        base, predictor = below(every, "base."), below(every, "predictor.")
        queries, keys, seen = [], [], {"base": [], "predictor": [], "momentum": []}
        for view in views:
            projected, statistics = self.encode(base, view)
            query, of_predictor = sequence(predictor, projected)
            key, of_momentum = self.encode(momentum, view)
            queries.append(query)
            keys.append(jax.lax.stop_gradient(key))
            for name, x in zip(seen, (statistics, of_predictor, of_momentum), strict=True):
                seen[name].append(x)
        (q1, q2), (k1, k2) = queries, keys
        loss = contrast(q1, k2, self.temperature) + contrast(q2, k1, self.temperature)
        return loss, (seen, queries, keys)

    def average(self, m: float) -> None:
        """Moves the momentum encoder towards the base encoder, but for its statistics."""
        for name, value in self.momentum.items():
            if "running" not in name:
                self.momentum[name] = np.float32(m) * value + np.float32(1 - m) * self.base[name]

    def step(self, views: list[np.ndarray]) -> float:
        """One update from two views [B, 3, H, W]; the momentum encoder moves first."""
        t = self.done
        self.average(self.momenta[t])
        every = {f"base.{k}": v for k, v in self.base.items()}
        every |= {f"predictor.{k}": v for k, v in self.predictor.items()}
        trained = {
            k: v
            for k, v in every.items()
            if "running" not in k and k.removeprefix("base.") not in FIXED
        }
        fixed = {k: v for k, v in every.items() if k not in trained}
        (loss, (seen, self.queries, self.keys)), self.grads = self.value_and_grad(
            trained, fixed, self.momentum, views
        )
        for name, grad in self.grads.items():
            module, _, rest = name.partition(".")
            self._adamw(getattr(self, module), rest, np.asarray(grad), name, t)
        for name, views_seen in seen.items():
            for statistics in views_seen:  # one batch of BatchNorm after the other
                self._track(name, statistics)
        self.done += 1
        return float(loss)

    def _adamw(self, tensors: Tensors, name: str, grad: np.ndarray, key: str, t: int) -> None:
        first, second = self.moments.get(key, (0.0, 0.0))
        first, second = 0.9 * first + 0.1 * grad, 0.999 * second + 0.001 * grad**2
        self.moments[key] = first, second
        p = tensors[name] * (1 - self.lr[t] * self.weight_decay)
        move = first / (1 - 0.9 ** (t + 1)) / (np.sqrt(second / (1 - 0.999 ** (t + 1))) + 1e-8)
        tensors[name] = (p - self.lr[t] * move).astype(np.float32)

    def _track(self, name: str, statistics: dict) -> None:
        tensors = getattr(self, name)
        prefix = "" if name == "predictor" else "head."
        for number, values in statistics.items():
            for what, value in zip(("mean", "var"), values, strict=True):
                key = f"{prefix}{number}.running_{what}"
                tensors[key] = (0.9 * tensors[key] + 0.1 * np.asarray(value)).astype(np.float32)
