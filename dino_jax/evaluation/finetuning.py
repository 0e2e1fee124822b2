"""Training of a backbone together with a classifier (MAE, arXiv:2111.06377, Appendix A.2)."""

import collections
import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from dino_jax.commands.progress import Progress
from dino_jax.data.slots import Batch
from dino_jax.devices.sharding import batch_sharding, replicated, shard_batch
from dino_jax.evaluation.accuracy import TopAccuracy
from dino_jax.evaluation.features import AHEAD
from dino_jax.evaluation.mixing import Mixing, mix
from dino_jax.models.network import Network
from dino_jax.optim.optimizer import Optimizer, make_adamw, make_optimizer
from dino_jax.optim.schedules import build_cosine, build_warmup_cosine

CLASSIFIER = "heads_classifier"  # beside "backbone" in the parameters
KERNEL_STD = 2e-5
NORM_EPSILON = 1e-6
B1, B2, EPSILON = 0.9, 0.999, 1e-8  # torch's AdamW

Variables = dict[str, Any]


class State(NamedTuple):
    """What a step changes, on every device.

    Attributes:
      variables: parameters of backbone and classifier, and statistics of BatchNorm if there are.
      moments: state of the optimizer.
    """

    variables: Variables
    moments: Any


class Length(NamedTuple):
    """Length of the training and its learning rates.

    Attributes:
      epochs: passes over the training images.
      steps_per_epoch: updates of one of them.
      peak: learning rate after the warm-up, scaled with the batch.
      final: learning rate at the end.
      warmup_epochs: epochs in which it rises from 0.
    """

    epochs: int
    steps_per_epoch: int
    peak: float
    final: float
    warmup_epochs: float

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch


@dataclass(frozen=True)
class Classifier:
    """A backbone with a linear classifier on top.

    Attributes:
      network: the backbone, without heads.
      pools_mean: whether the classifier sees the mean of the patch tokens before the final norm,
        through a LayerNorm of its own; else the cls token.
      classes: K.
    """

    network: Network
    pools_mean: bool
    classes: int

    def init(self, rng: jax.Array, variables: Variables) -> Variables:
        """The variables of the backbone, and new ones of the classifier."""
        dim = self.network.backbone.embed_dim
        kernel = jax.nn.initializers.truncated_normal(KERNEL_STD)(rng, (dim, self.classes))
        head: dict[str, Any] = {"kernel": kernel, "bias": jnp.zeros(self.classes)}
        if self.pools_mean:
            head["norm"] = {"scale": jnp.ones(dim), "bias": jnp.zeros(dim)}
        return {**variables, "params": {**variables["params"], CLASSIFIER: head}}

    def logits(self, variables: Variables, images: jax.Array) -> jax.Array:
        """[B, K] float32 of [B, H, W, C] images, uint8 or normalized; nothing is dropped."""
        return self._logits(variables, self._features(variables, images))

    def train_logits(
        self, variables: Variables, images: jax.Array, rng: jax.Array
    ) -> tuple[jax.Array, Variables]:
        """The same with stochastic depth and the statistics of the batch, and new variables."""
        features, new = self._features(
            variables, images, rngs={"drop_path": rng}, mutable=["batch_stats"]
        )
        return self._logits(variables, features), {**variables, **new}

    def _features(self, variables: Variables, images: jax.Array, **mode: Any) -> Any:
        if self.pools_mean:
            where = {"layers": (-1,), "normalize": False, "method": "intermediate"}
            return self.network.apply(variables, images, **where, **mode)
        return self.network.apply(variables, images, **mode)

    def _logits(self, variables: Variables, features: Any) -> jax.Array:
        head = variables["params"][CLASSIFIER]
        if self.pools_mean:
            x = jnp.mean(features[0]["patches"].astype(jnp.float32), axis=1)
            x = jax.nn.standardize(x, epsilon=NORM_EPSILON)
            x = x * head["norm"]["scale"] + head["norm"]["bias"]
        else:
            x = features["cls"].astype(jnp.float32)
        return x @ head["kernel"] + head["bias"]


def build_optimizer(length: Length, weight_decay: float, layer_decay: float) -> Optimizer:
    """AdamW whose rate falls from block to block towards the input.

    Raises:
      ValueError: if the warm-up is longer than the training, or the layers cannot differ.
    """
    rate = build_warmup_cosine(
        length.peak,
        length.final,
        warmup_epochs=length.warmup_epochs,
        total_steps=length.steps,
        steps_per_epoch=length.steps_per_epoch,
        warmup_peak="after",
    )
    decay = build_cosine(weight_decay, weight_decay, total_steps=length.steps)
    rule = make_adamw(rate, decay, b1=B1, b2=B2, eps=EPSILON, decayed="layers")
    return make_optimizer(rule, clip_norm=0.0, frozen_steps=0, layer_decay=layer_decay)


def make_step(
    classifier: Classifier, optimizer: Optimizer, mixing: Mixing, seed: int, mesh: Mesh
) -> Callable[..., tuple[State, jax.Array, jax.Array]]:
    """Compiles (state, batch, step) -> (state, loss, [B] unreadable), whole on every device."""
    base = jax.random.key(seed)

    def take_step(state: State, batch: dict[str, jax.Array], step: jax.Array):
        mix_rng, drop_rng = jax.random.split(jax.random.fold_in(base, step))
        images = classifier.network.normalize(batch["image"])
        images, targets = mix(mix_rng, images, batch["label"], classifier.classes, mixing)

        def loss_of(params: Any) -> tuple[jax.Array, Variables]:
            variables = {**state.variables, "params": params}
            logits, new = classifier.train_logits(variables, images, drop_rng)
            return jnp.mean(optax.softmax_cross_entropy(logits, targets)), new

        params = state.variables["params"]
        (loss, new), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, moments = optimizer.update(grads, state.moments, params, step=step)
        new["params"] = optax.apply_updates(params, updates)
        return State(new, moments), loss, batch["unreadable"]

    return jax.jit(take_step, donate_argnums=0, out_shardings=replicated(mesh))


class Tuned(NamedTuple):
    """Outcome of a training.

    Attributes:
      accuracies: on the test images after every epoch.
      unreadable: sorted source indices of training images that could not be read.
    """

    accuracies: list[TopAccuracy]
    unreadable: np.ndarray


def tune(
    classifier: Classifier,
    variables: Variables,
    optimizer: Optimizer,
    mixing: Mixing,
    length: Length,
    stream: Generator[Batch],
    score: Callable[[Variables], TopAccuracy],
    seed: int,
    mesh: Mesh,
) -> Tuned:
    """Trains; all processes take part.

    Args:
      classifier: what is trained.
      variables: of the backbone.
      optimizer: of `build_optimizer`.
      mixing: how batches are mixed.
      length: length of the training.
      stream: endless stream of `build_labelled_stream`; it is closed at the end.
      score: accuracy of the variables on the test images.
      seed: of the classifier's first weights and of all noise.
      mesh: mesh of the devices.

    Raises:
      ValueError: if the loss is not finite at the end of an epoch.
    """

    def init(variables: Variables) -> State:
        whole = classifier.init(jax.random.key(seed), variables)
        return State(whole, optimizer.init(whole["params"]))

    state = jax.jit(init, out_shardings=replicated(mesh))(variables)
    take_step = make_step(classifier, optimizer, mixing, seed, mesh)
    accuracies: list[TopAccuracy] = []
    lost: set[int] = set()
    running: collections.deque[jax.Array] = collections.deque()
    progress = Progress("training", length.steps, "steps")
    with contextlib.closing(stream), contextlib.closing(progress):
        for step in range(1, length.steps + 1):
            batch = shard_batch(next(stream), batch_sharding(mesh))
            state, loss, unreadable = take_step(state, batch, np.int32(step - 1))
            running.append(unreadable)
            if len(running) > AHEAD:
                lost.update(np.asarray(running.popleft()).tolist())
            if step % length.steps_per_epoch == 0:
                _check_loss(float(loss), step)
                accuracies.append(score(state.variables))
            if not jax.process_index():
                progress.show(step)
    lost.update(index for rows in running for index in np.asarray(rows).tolist())
    return Tuned(accuracies, np.array(sorted(lost - {-1}), np.int64))


def _check_loss(loss: float, step: int) -> None:
    if not np.isfinite(loss):
        raise ValueError(f"the loss of step {step} is {loss}; try a smaller --lr")
