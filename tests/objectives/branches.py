"""Outputs without a network: the features already are the logits."""

import functools

import jax
import numpy as np

from dino_jax.objectives.base import Outputs


def as_outputs(cls=None, patches=None, global_views=None):
    """Outputs from cls tokens [B, V, D] and, or, patch tokens [B, V, N, D].

    All views are global ones, or `global_views` of them, and the rest local ones.
    """
    given = {"cls": cls, "patches": patches}
    given = {name: x for name, x in given.items() if x is not None}
    count = next(iter(given.values())).shape[1]
    views = tuple({name: x[:, view] for name, x in given.items()} for view in range(count))
    global_views = count if global_views is None else global_views
    groups = ("global",) * global_views + ("local",) * (count - global_views)
    return Outputs(views, groups, lambda head, x: x)


@functools.partial(jax.jit, static_argnames="objective")
def run(objective, student, teacher, batch, state, step=0):
    """Outcome of an objective and the gradient of its loss.

    `student` and `teacher` are {"cls": [B, V, D], "patches": [B, V, N, D]} or one of the two; the
    gradient is that of the student's.
    """

    def loss_fn(student):
        targets = as_outputs(**teacher)
        views = len(targets.features)
        branches = {"student": as_outputs(**student, global_views=views), "teacher": targets}
        outcome = objective(branches, batch, state, jax.numpy.asarray(step))
        return outcome.loss, outcome

    grads, outcome = jax.grad(loss_fn, has_aux=True)(student)
    return outcome, grads


def image_major(x, images):
    """The official code stacks crop after crop; ours keeps the views of an image together."""
    return x.reshape(-1, images, *x.shape[1:]).swapaxes(0, 1)


def log_softmax(x):
    x = np.asarray(x, np.float64)
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
