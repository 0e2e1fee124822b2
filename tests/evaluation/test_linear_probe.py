"""Training of a linear map on frozen patch features."""

import time
import types

import jax
import jax.numpy as jnp
import numpy as np

from dino_jax.devices.sharding import make_mesh
from dino_jax.evaluation.features import AHEAD
from dino_jax.evaluation.linear_probe import Training, init_head, train_probe

STEPS = 40


def test_the_host_does_not_run_far_ahead_of_the_devices():
    """Programs of several CPU devices that wait for each other hang, and batches fill memory."""
    asked, finished, ahead = 0, 0, []

    def count(step: np.ndarray) -> None:
        nonlocal finished
        time.sleep(0.02)  # a slow device
        finished = max(finished, int(step) + 1)

    def loss(logits: jax.Array, target: jax.Array, step: jax.Array) -> jax.Array:
        jax.debug.callback(count, step)
        return jnp.mean((logits[..., 0] - target) ** 2)

    def batches():
        nonlocal asked
        for _ in range(STEPS):
            ahead.append(asked - finished)
            asked += 1
            yield {"image": np.ones((4, 2, 2, 3), np.float32), "target": np.ones((4, 2, 2))}

    model = types.SimpleNamespace(network=None, variables={})
    head = init_head(jax.random.key(0), 3, 1, batch_norm=False)
    training = Training(STEPS, lr=0.1, weight_decay=0.0, clip=0.0, batch_size=4)
    mesh = make_mesh(1)
    trained = train_probe(model, lambda *inputs: inputs[-1], loss, head, training, batches(), mesh)
    assert max(ahead) <= AHEAD
    predicted = trained.params["kernel"].sum() + trained.params["bias"]
    np.testing.assert_allclose(predicted, 1, atol=0.2)
