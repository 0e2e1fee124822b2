"""Trains linear classifiers on random crops, and scores them periodically."""

import collections
import contextlib
import math
from collections.abc import Generator
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh

from dino_jax.commands.progress import Progress
from dino_jax.data.slots import Batch
from dino_jax.devices.sharding import batch_sharding, replicated, shard_batch
from dino_jax.evaluation.accuracy import TopAccuracy
from dino_jax.evaluation.features import AHEAD, LabeledFeatures
from dino_jax.evaluation.linear_heads import Head, Heads, init_heads, make_head_step, score_heads
from dino_jax.weights.model import Model


@dataclass(frozen=True)
class TrainingLength:
    """Length of the training of classifiers.

    Attributes:
      total_steps: steps of SGD.
      period: steps after which the learning rate moves along its cosine.
      score_every: steps between two evaluations on the test images; divides `total_steps`.
      warmup_steps: steps in which the learning rate rises from 0.
    """

    total_steps: int
    period: int
    score_every: int
    warmup_steps: int = 0

    def factor(self, step: int) -> float:
        """Factor of the learning rates after `step` finished steps: 1, falling towards 0."""
        if step < self.warmup_steps:
            return step / self.warmup_steps
        done = (step - self.warmup_steps) // self.period * self.period
        return 0.5 * (1.0 + math.cos(math.pi * done / (self.total_steps - self.warmup_steps)))


@dataclass(frozen=True)
class Score:
    """All classifiers after `step` steps."""

    step: int
    accuracies: dict[Head, TopAccuracy]


def train_heads(
    model: Model,
    heads: Heads,
    length: TrainingLength,
    stream: Generator[Batch],
    test: LabeledFeatures,
    mesh: Mesh,
) -> tuple[list[Score], np.ndarray]:
    """Trains all classifiers together.

    Args:
      model: the frozen backbone.
      heads: classifiers to train.
      length: length of the training.
      stream: endless stream of `build_labelled_stream`; it is closed at the end.
      test: [M, n + 1, D] of the test images, from `linear_features.pool_outputs`.
      mesh: mesh of the devices.

    Returns:
      The scores, and the sorted source indices of training images that could not be read.
    """
    variables = jax.device_put(model.variables, replicated(mesh))
    state = init_heads(heads, test.features.shape[-1], mesh)
    take_step = make_head_step(heads, model.network, mesh)
    scores, lost = [], set()
    running: collections.deque[jax.Array] = collections.deque()
    progress = Progress("training", length.total_steps, "steps")
    with contextlib.closing(stream), contextlib.closing(progress):
        for step in range(1, length.total_steps + 1):
            batch = shard_batch(next(stream), batch_sharding(mesh))
            factor = np.float32(length.factor(step - 1))
            state, unreadable = take_step(variables, state, batch, factor)
            running.append(unreadable)
            if len(running) > AHEAD:
                lost.update(np.asarray(running.popleft()).tolist())
            if step % length.score_every == 0:
                scores.append(Score(step, score_heads(heads, state, test.features, test.labels)))
            if not jax.process_index():
                progress.show(step)
    lost.update(index for rows in running for index in np.asarray(rows).tolist())
    return scores, np.array(sorted(lost - {-1}), np.int64)
