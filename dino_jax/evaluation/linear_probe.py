"""A linear map from frozen patch tokens to numbers per patch, trained on all devices."""

import argparse
import collections
import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from dino_jax.commands.progress import Progress
from dino_jax.devices.sharding import batch_sharding, replicated, shard_batch
from dino_jax.evaluation.crops import CropStream
from dino_jax.evaluation.features import AHEAD
from dino_jax.evaluation.frozen import Take
from dino_jax.evaluation.options.groups import Training
from dino_jax.models.network import Network
from dino_jax.weights.limits import check_batch
from dino_jax.weights.model import Model

KERNEL_STD = 0.01  # mmsegmentation, decode heads
BN_MOMENTUM, BN_EPSILON = 0.9, 1e-5  # torch, whose momentum is 1 - 0.9
WARMUP_SHARE = 0.0375  # of the steps: 1,500 of 40,000 (configs of DINOv2)

Loss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Head(NamedTuple):
    """Trained parameters, and the running statistics of the BatchNorm.

    Attributes:
      params: "kernel" [D, C], "bias" [C]; with BatchNorm "scale" [D] and "shift" [D].
      statistics: "mean" [D] and "variance" [D], or nothing without BatchNorm.
    """

    params: dict[str, jax.Array]
    statistics: dict[str, jax.Array]


def patch_taker(layers: tuple[int, ...], normalize: bool, with_cls: bool) -> Take:
    """(network, variables, images [B, H, W, C]) -> [B, h, w, D] float32 patch features.

    Args:
      layers: blocks whose features are concatenated.
      normalize: whether to apply the final LayerNorm.
      with_cls: whether to append the cls token of each block to its patch tokens.
    """

    def take(network: Network, variables: Any, images: jax.Array) -> jax.Array:
        features: Any = network.apply(variables, images, layers, normalize, method="intermediate")
        parts = []
        for block in features:
            patches = block["patches"]
            cls = jnp.broadcast_to(block["cls"][:, None], patches.shape)
            parts += [patches, cls] if with_cls else [patches]
        tokens = jnp.concatenate(parts, axis=-1).astype(jnp.float32)
        patch_size = network.backbone.patch_size
        height, width = (side // patch_size for side in images.shape[1:3])
        return tokens.reshape(len(images), height, width, -1)

    return take


def init_head(key: jax.Array, dim: int, classes: int, batch_norm: bool) -> Head:
    """A head before training."""
    params = {
        "kernel": KERNEL_STD * jax.random.normal(key, (dim, classes)),
        "bias": jnp.zeros(classes),
    }
    if not batch_norm:
        return Head(params, {})
    params |= {"scale": jnp.ones(dim), "shift": jnp.zeros(dim)}
    return Head(params, {"mean": jnp.zeros(dim), "variance": jnp.ones(dim)})


def apply_head(head: Head, tokens: jax.Array, train: bool = False) -> tuple[jax.Array, Head]:
    """Logits of every patch, and the head with new statistics if it is trained.

    Args:
      head: with or without BatchNorm.
      tokens: [B, h, w, D] float32.
      train: normalize with the statistics of the batch (of all processes, under jit) and track
        them, as torch's SyncBatchNorm.

    Returns:
      [B, h, w, C] and the head.
    """
    params, statistics = head
    if statistics:
        mean, variance = statistics["mean"], statistics["variance"]
        if train:
            mean, variance = tokens.mean(axis=(0, 1, 2)), tokens.var(axis=(0, 1, 2))
            count = tokens.size // tokens.shape[-1]
            seen = {"mean": mean, "variance": variance * count / (count - 1)}
            statistics = {
                name: BN_MOMENTUM * statistics[name] + (1 - BN_MOMENTUM) * value
                for name, value in seen.items()
            }
        scaled = (tokens - mean) * jax.lax.rsqrt(variance + BN_EPSILON)
        tokens = scaled * params["scale"] + params["shift"]
    logits = jnp.einsum("bhwd,dc->bhwc", tokens, params["kernel"]) + params["bias"]
    return logits, Head(params, statistics)


def train_probe(
    model: Model,
    take: Take,
    loss: Loss,
    head: Head,
    training: Training,
    batches: Iterable[dict[str, np.ndarray]],
    mesh: Mesh,
) -> Head:
    """Trains a head on frozen features; all processes take part and get the same.

    Args:
      model: frozen model.
      take: images to patch features.
      loss: (logits [B, h, w, C], target [B, H, W], step) -> the mean over this batch.
      head: before training.
      training: how to train.
      batches: this process's rows, "image" and "target".
      mesh: mesh of all devices.

    Raises:
      ValueError: if the loss is not finite.
    """
    optimizer = build_optimizer(training)

    def update(state: Any, variables: Any, batch: dict[str, jax.Array]) -> tuple[Any, jax.Array]:
        head, opt_state, step = state
        tokens = jax.lax.stop_gradient(take(model.network, variables, batch["image"]))

        def loss_fn(params: dict[str, jax.Array]) -> tuple[jax.Array, Head]:
            logits, new = apply_head(Head(params, head.statistics), tokens, train=True)
            return loss(logits, batch["target"], step), new

        (value, new), grads = jax.value_and_grad(loss_fn, has_aux=True)(head.params)
        updates, opt_state = optimizer.update(grads, opt_state, head.params)
        params: Any = optax.apply_updates(head.params, updates)
        return (Head(params, new.statistics), opt_state, step + 1), value

    whole = replicated(mesh)
    update = jax.jit(update, donate_argnums=0, out_shardings=whole)
    variables = jax.device_put(model.variables, whole)
    state = jax.device_put((head, optimizer.init(head.params), jnp.zeros((), jnp.int32)), whole)
    value = jnp.zeros(())
    running: collections.deque[jax.Array] = collections.deque()
    for batch in batches:
        state, value = update(state, variables, shard_batch(batch, batch_sharding(mesh)))
        running.append(value)
        if len(running) > AHEAD:  # else batches pile up on the devices; many CPU devices hang
            running.popleft().block_until_ready()
    if not np.isfinite(np.asarray(value)):
        raise ValueError(f"the loss of the last training step is {value}; try a smaller --lr")
    return jax.tree.map(np.asarray, state[0])


def build_optimizer(training: Training) -> optax.GradientTransformation:
    """AdamW with the schedule of `Training`."""
    warmup = max(round(WARMUP_SHARE * training.steps), 1)
    rate = optax.join_schedules(
        [
            optax.linear_schedule(0.0, training.lr, warmup),
            optax.linear_schedule(training.lr, 0.0, max(training.steps - warmup, 1)),
        ],
        [warmup],
    )
    clip = optax.clip_by_global_norm(training.clip) if training.clip else optax.identity()
    return optax.chain(clip, optax.adamw(rate, weight_decay=training.weight_decay))


def count_batches(stream: CropStream, training: Training) -> Iterator[dict[str, np.ndarray]]:
    """This process's rows of all batches; process 0 shows progress."""
    own = training.batch_size // jax.process_count()
    rows = range(jax.process_index() * own, (jax.process_index() + 1) * own)
    batches = stream.batches(training.steps, rows, training.batch_size)
    if jax.process_index():
        yield from batches
        return
    with contextlib.closing(Progress("training", training.steps * training.batch_size)) as progress:
        for step, batch in enumerate(batches):
            yield batch
            progress.show((step + 1) * training.batch_size)


def last_layers(network: Network, count: int) -> tuple[int, ...]:
    """The last blocks of a backbone.

    Raises:
      ValueError: if there are fewer.
    """
    depth = network.backbone.depth
    if count > depth:
        raise ValueError(f"--layers={count}: this backbone has features of 1 to {depth} layers")
    return tuple(range(-count, 0))


def width_of(model: Model, take: Take, side: int) -> int:
    """D, the numbers per patch that `take` gives."""
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8)
    apply = partial(take, model.network)
    return jax.eval_shape(apply, model.variables, images).shape[-1]


def training_of(arguments: argparse.Namespace, mesh: Mesh) -> Training:
    """Reads the options from the command line.

    Raises:
      ValueError: if the devices do not divide the batch.
    """
    training = Training(*(getattr(arguments, name) for name in Training._fields))
    check_batch(training.batch_size, mesh.size)
    return training
