"""All that a GPU should show: python -m tests.benchmarks.gpu [--batch=64]

The attention of cuDNN against ours (values, gradients, milliseconds), then whole train steps of
ViT-S/16 in bfloat16 with each of the two. Written on machines without a GPU: nobody has run it on
one yet. --without-gpu takes XLA's implementation and a tiny step, to test this file.
"""

import argparse
import dataclasses
import importlib
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dino_jax.models.attention import attend
from dino_jax.models.gpu_attention import attend_by_cudnn, takes_cudnn
from dino_jax.run.whole_config import complete_config, read_config
from dino_jax.step.recipe import build_recipe
from dino_jax.step.roles import fit_roles

HEAD_DIM = 64
TOKENS = (37, 197, 201, 1370)  # local and global crops, with registers, 518 pixels by 14
TINY = {"network.backbone.size": "tiny", "network.heads.dino.out_dim": 256, "batch_size": 2}


def milliseconds(function: Callable[..., Any], *arguments: Any, repeat: int) -> float:
    """Median time of a call, after one that is not counted."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(repeat):
        begin = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - begin)
    return 1000 * statistics.median(times)


def compare_attention(tokens: int, batch: int, implementation: str, repeat: int) -> str:
    """A row: largest differences of values and gradients, and both times."""
    keys = jax.random.split(jax.random.key(0), 4)
    shape = (batch, tokens, 6, HEAD_DIM)
    *qkv, weights = (jax.random.normal(key, shape, jnp.bfloat16) for key in keys)

    def loss(one: Callable[..., Any], *qkv: jax.Array) -> tuple[jax.Array, jax.Array]:
        mixed, _ = one(*qkv)
        product = mixed * weights.reshape(mixed.shape)
        return jnp.sum(product.astype(jnp.float32)), mixed

    quick = partial(attend_by_cudnn, implementation=implementation)
    steps = [
        jax.jit(jax.grad(partial(loss, one), argnums=(0, 1, 2), has_aux=True))
        for one in (attend, quick)
    ]
    (gradients, values), (others, same) = (step(*qkv) for step in steps)

    def largest(a: Any, b: Any) -> float:
        return float(np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32)).max())

    apart = max(map(largest, gradients, others))
    ours, theirs = (milliseconds(step, *qkv, repeat=repeat) for step in steps)
    return (
        f"{tokens:>5} tokens  values {largest(values, same):.2e}  gradients {apart:.2e}  "
        f"ours {ours:.2f} ms  cuDNN {theirs:.2f} ms"
    )


def measure_steps(changes: dict[str, Any], repeat: int) -> Iterator[str]:
    """Rows: a train step with XLA's attention and with the one that the device takes."""
    given = importlib.import_module("configs.vits16_vanilla").get_config()
    given.update_from_flattened_dict(changes)
    config = read_config(complete_config(given))
    recipe = build_recipe(config, 1_281_167)
    sizes = {"global": (2, 224), "local": (8, 96)}
    batch = {
        f"{group}_crops": np.zeros((config.batch_size, count, side, side, 3), np.uint8)
        for group, (count, side) in sizes.items()
    }
    for name, by_cudnn in (("XLA", False), ("the device's", True)):

        def fit(network: Any, by_cudnn: bool = by_cudnn) -> Any:
            backbone = network.backbone.on_devices(jax.devices()[0], None)
            chosen = backbone.by_cudnn and by_cudnn
            return network.clone(backbone=backbone.clone(by_cudnn=chosen))

        fitted = dataclasses.replace(recipe, roles=fit_roles(recipe.roles, fit))
        state = jax.jit(fitted.init)(jax.random.key(0))
        step = jax.jit(fitted.make_step())
        taken = milliseconds(step, state, batch, repeat=repeat)
        used = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**30
        yield (
            f"step of {config.batch_size} images, {name} attention: {taken:.1f} ms, "
            f"{1000 * config.batch_size / taken:.0f} images/s, peak {used:.1f} GiB so far"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=64, help="images of a step")
    parser.add_argument("--repeat", type=int, default=20, help="calls that are timed")
    parser.add_argument("--without-gpu", action="store_true", help="tests this file")
    given = parser.parse_args()
    device = jax.devices()[0]
    if not given.without_gpu and not takes_cudnn(device, jnp.bfloat16, HEAD_DIM):
        parser.exit(2, f"error: {device.device_kind} is no NVIDIA GPU of Ampere or later\n")
    print(f"jax {jax.__version__}, {device.device_kind}", flush=True)
    implementation = "xla" if given.without_gpu else "cudnn"
    for tokens in TOKENS[:1] if given.without_gpu else TOKENS:
        print(compare_attention(tokens, given.batch, implementation, given.repeat), flush=True)
    changes = TINY if given.without_gpu else {"batch_size": given.batch}
    for line in measure_steps(changes, given.repeat):
        print(line, flush=True)


if __name__ == "__main__":
    main()
