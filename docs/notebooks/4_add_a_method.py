# %% [markdown]
# # Add a method in one file
#
# An objective sees the outputs of the networks and returns a loss. That is all that a method has
# to be: its options are a dataclass, what it asks of the run is checked before the first step,
# and networks, optimizer, data, several devices and the log are already there. This notebook adds
# Barlow Twins ([arXiv:2103.03230](https://arxiv.org/abs/2103.03230)), which the package does not
# have, and trains with it.
#
# To run it: `python docs/notebooks/4_add_a_method.py`, or cell by cell in Jupyter with jupytext.

# %%
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import dino_jax
from dino_jax.config.section import option
from dino_jax.data.multi_crop import build_multi_crop
from dino_jax.data.pipeline import build_train_stream
from dino_jax.data.sources.digits import DigitsSource
from dino_jax.objectives.base import Context, Needs, Outcome, Outputs, check_head
from dino_jax.objectives.build import OBJECTIVES
from dino_jax.optim.schedules import Constant, Schedule
from dino_jax.run.whole_config import read_config
from dino_jax.step.recipe import build_recipe

STEPS = 20

# %% [markdown]
# ## The loss
#
# Barlow Twins correlates the projections of two views over the batch, channel by channel, and
# wants the identity: every channel agrees between the views, and no two channels say the same
# (Eq. 1 and 2 of the paper).


# %%
def barlow_loss(first: jax.Array, second: jax.Array, redundancy: float) -> jax.Array:
    """Distance of the cross-correlation from the identity: [B, K] and [B, K] float32 -> scalar."""
    first, second = (
        (x - jnp.mean(x, axis=0)) / (jnp.std(x, axis=0) + 1e-5) for x in (first, second)
    )
    correlation = jnp.einsum("bi,bj->ij", first, second, precision="highest") / len(first)
    diagonal = jnp.diagonal(correlation)
    agreement = jnp.sum(jnp.square(1 - diagonal))
    return agreement + redundancy * (jnp.sum(jnp.square(correlation)) - jnp.sum(diagonal**2))


# %% [markdown]
# ## The method
#
# In the package these would be the lines of a file `dino_jax/objectives/barlow.py`. `Config` is
# the section of a config: names, types, defaults, ranges and meanings in one place, so that a
# misspelt option is an error with a suggestion.


# %%
@dataclass(frozen=True)
class Config:
    """A section of `config.objectives` of kind "barlow"."""

    kind: str = option("barlow", "of the objective")
    weight: float = option(1.0, "of this loss in the sum", at_least=0)
    head: str = option("projector", "head whose outputs are correlated")
    redundancy: float = option(5e-3, "weight of what is off the diagonal", at_least=0)


@dataclass(frozen=True)
class Barlow:
    """Barlow Twins of the first two views; it has no state."""

    weight: Schedule
    head: str
    redundancy: float
    learner: str

    @property
    def needs(self) -> Needs:
        """Two views, and all images of the batch at once: correlations of parts do not add up."""
        return Needs(roles=(self.learner,), heads=(self.head,), views=2, whole_batch=True)

    def init(self) -> dict[str, jax.Array]:
        return {}

    def __call__(
        self,
        branches: Mapping[str, Outputs],
        batch: dict[str, jax.Array],
        state: Any,
        step: jax.Array,
    ) -> Outcome:
        seen = branches[self.learner]
        projected = seen.project(self.head, seen.cls_tokens())  # [B, V, K]
        loss = barlow_loss(projected[:, 0], projected[:, 1], self.redundancy)
        return Outcome(loss, state, {"loss": loss})


def build(where: str, config: Config, context: Context) -> Barlow:
    """Builds the objective; `where` names its section in messages."""
    check_head(f"{where}.head", config.head, context)
    return Barlow(Constant(config.weight), config.head, config.redundancy, context.learner)


OBJECTIVES["barlow"] = SimpleNamespace(Config=Config, build=build)  # a module, in the package

# %% [markdown]
# ## Is the loss right?
#
# A double loop over channels in NumPy says the same. A method is not done before such a test.

# %%
draws = np.random.default_rng(0).normal(size=(2, 16, 5)).astype(np.float32)
a, b = ((x - x.mean(0)) / (x.std(0) + 1e-5) for x in draws)
expected = 0.0
for i in range(5):
    for j in range(5):
        correlation = np.mean(a[:, i] * b[:, j])
        expected += (1 - correlation) ** 2 if i == j else 5e-3 * correlation**2
np.testing.assert_allclose(barlow_loss(*draws, 5e-3), expected, rtol=1e-5)

# %% [markdown]
# ## A config
#
# It starts from SimCLR's on digits, which has a projector and no teacher, and exchanges the
# objective.

# %%
given = dino_jax.load_config("digits_simclr")
given.objectives = ConfigDict(dict(barlow=dict(kind="barlow")))
given.batch_size, given.steps_per_epoch, given.epochs = 64, STEPS, 1.0
given.optimizer.warmup_epochs = 0.25
given.network.backbone.update(embed_dim=48, depth=1)
given.network.heads.projector.update(out_dim=32, last_norm="none")
config = read_config(given)

# %% [markdown]
# ## Training, by hand
#
# `dino-jax train` does this with checkpoints, a log and evaluations around it; the step is the
# same.

# %%
images = DigitsSource("train")
stream = build_train_stream(
    images,
    build_multi_crop(config.augment),
    seed=0,
    batch_size=config.batch_size,
    start_step=0,
    host=0,
    hosts=1,
    workers=0,
    threads=0,
    max_pixels=config.max_pixels,
)
recipe = build_recipe(config, len(images))
state = jax.jit(recipe.init)(jax.random.key(0))
train_step = jax.jit(recipe.make_step())
losses = []
for _ in range(STEPS):
    batch = next(stream)
    del batch["unreadable"]
    state, metrics = train_step(state, batch)
    losses.append(float(metrics["barlow/loss"]))
print(f"loss {losses[0]:.2f} at the first step, {losses[-1]:.2f} at the last")

# %% [markdown]
# A misspelt option is found before anything is built:

# %%
given.objectives.barlow.redundancies = 0.1
try:
    build_recipe(read_config(given), len(images))
except ValueError as error:
    print(error)

# %% [markdown]
# [CONTRIBUTING](../../CONTRIBUTING.md) has a backbone, a source of images and an evaluation in
# the same way, and a config file that registers all of them, for `dino-jax train`.
