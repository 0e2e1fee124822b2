# %% [markdown]
# # Read a run's diagnosis
#
# Self-supervised training fails quietly: the loss goes down, and the features are worth nothing.
# A run therefore judges itself from its own numbers, names what it sees and says which option to
# turn. Here a run is broken on purpose.
#
# To run it: `python docs/notebooks/3_read_a_diagnosis.py`, or cell by cell in Jupyter with
# jupytext.

# %%
import json
import math
from pathlib import Path

from dino_jax.__main__ import main
from dino_jax.run.diagnosis import History, diagnose

SMALL = [  # a network that compiles in seconds; nothing below depends on it
    "--config.network.backbone.embed_dim=24",
    "--config.network.backbone.depth=1",
    "--config.network.heads.dino.hidden_dim=64",
    "--config.batch_size=32",
    "--config.steps_per_epoch=4",
    "--config.epochs=6",
    "--config.evaluations.knn.every_epochs=0.0",
    "--config.evaluations.proxies.every_epochs=0.0",
    "--config.probes.count=0",
    "--config.runtime.log_every_steps=1",
]

# %% [markdown]
# ## A teacher that is too warm
#
# The temperature of the teacher's softmax is 0.04 in DINO. At 1 its targets are almost the same
# for every image: all that the student can learn is to say the same about everything.

# %%
too_warm = [
    "--config.objectives.dino.teacher_temperature=1.0",
    "--config.objectives.dino.warmup_teacher_temperature=1.0",
]
main(["train", "--config=quickstart", "--workdir=runs/too_warm", *SMALL, *too_warm])

# %% [markdown]
# The line `diagnosis …` on the screen is also kept, one line whenever the verdict changes:


# %%
def read_lines(path: str) -> list[dict]:
    """The objects of a file with one per line."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


for verdict in read_lines("runs/too_warm/diagnosis.jsonl"):
    print(f"step {verdict['step']}: {verdict['title']}")
    print(f"  because {verdict['evidence']}")
    print(f"  {verdict['advice']}")

# %% [markdown]
# ## The numbers behind it
#
# A target of K prototypes carries information about its image only if targets differ: the entropy
# of their mean minus their mean entropy, in nats. ln K is the entropy of a uniform target, and
# the loss of a student that knows nothing.

# %%
metrics = [line for line in read_lines("runs/too_warm/metrics.jsonl") if "loss" in line]
for line in metrics[:: max(len(metrics) // 5, 1)]:
    told = line["dino/mean_teacher_entropy"] - line["dino/teacher_entropy"]
    print(
        f"step {line['step']:3}  loss {line['loss']:.3f} (ln K {math.log(256):.3f})"
        f"  H/lnK {line['dino/relative_teacher_entropy']:.3f}  told {told:.4f} nats"
    )

# %% [markdown]
# ## The same rules on any numbers
#
# `diagnose` is a pure function of the log lines: it can judge a run that is long over, or one of
# another machine. The first argument of `History` are the steps at the start that do not count
# yet, in which the learning rate rises.

# %%
history = History(grace_steps=4)
for line in metrics:
    history.add(line)
verdict = diagnose(history)
print(verdict.state, "|", verdict.evidence)

# %% [markdown]
# ## Cured
#
# The advice was to lower the temperature. The same command without `too_warm`, in another workdir,
# gives a run of 24 steps whose targets carry 1.8 nats about their image at the end, and whose
# verdict is *Healthy*. Whether its features are good is another question: an evaluation tells.
#
# `--config.runtime.stop_on_collapse=True` ends a run with exit code 1 when the verdict is a
# failure, before a night is lost. [Every number of a run](../metrics.md) has the table of all
# verdicts, and eight runs with theirs.
