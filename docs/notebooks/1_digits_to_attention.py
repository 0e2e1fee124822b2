# %% [markdown]
# # Digits, from zero to attention
#
# A network that has never seen a label learns to tell handwritten digits apart, and shows where
# it looks. All that is needed comes with the package: 1,797 digits of 8 × 8 pixels, enlarged to
# 32 × 32.
#
# This page is a Python script in cells, `docs/notebooks/1_digits_to_attention.py`. To run it as
# it is: `python docs/notebooks/1_digits_to_attention.py`, about a minute on two CPU cores. To run
# it cell by cell: `pip install jupyter jupytext`, then *Open with → Notebook* in Jupyter; Visual
# Studio Code knows such cells by itself. It writes to the folder `runs`.

# %%
from pathlib import Path

import numpy as np
from PIL import Image

import dino_jax
from dino_jax.__main__ import main
from dino_jax.data.sources.digits import DigitsSource

STEPS, EPOCHS = 20, 2  # 50 and 24 for the figures of the README: 2.5 minutes on two CPU cores
RUN = "runs/digits"

# %% [markdown]
# ## What the network gets to see
#
# DINO shows several crops of an image to two networks. The student sees all of them, the teacher
# only the two large ones; the student has to say about its crop what the teacher says about
# another one. `dino-jax show` draws the crops, in a notebook as well as on the command line:

# %%
Path("runs").mkdir(exist_ok=True)
main(["show", "--config=quickstart", "--out=runs/crops.png", "--images=4"])
Image.open("runs/crops.png")

# %% [markdown]
# ## Training
#
# `quickstart` is a config: a file that holds one experiment. Every value of it can be overridden
# on the command line. The same command continues where it was stopped, so this cell may be run
# again.
#
# `H/lnK`, which the lines show, is the entropy of what the teacher says over its maximum: 1 would
# mean that it says the same about everything, 0 that it always names the same prototype.

# %%
options = [f"--config.steps_per_epoch={STEPS}", f"--config.epochs={EPOCHS}"]
if EPOCHS < 24:  # nothing to be seen yet: neither measured nor drawn on the way
    options += ["--config.evaluations.proxies.every_epochs=0.0", "--config.probes.count=0"]
    options += ["--config.evaluations.knn.every_epochs=0.0"]
main(["train", "--config=quickstart", f"--workdir={RUN}", *options])

# %% [markdown]
# `runs/digits/report.html` shows the run in one page that needs no network connection. Of a run
# of 24 epochs it looks like this:
#
# ![The report of a run: accuracy, attention, patch PCA and nearest neighbours](../report_top.png)
#
# ## Is it any good?
#
# The usual test without training a classifier: which digits are nearest to a test digit, and what
# are they? `model` is the teacher; it takes lists of paths, Pillow images or arrays.

# %%
model = dino_jax.load(RUN)
train, test = DigitsSource("train"), DigitsSource("test")


def features_of(source: DigitsSource, count: int) -> tuple[np.ndarray, np.ndarray]:
    """[count, D] features of length 1, and labels."""
    records = [source[index] for index in range(count)]
    cls = np.asarray(model(np.stack([record["image"] for record in records]))["cls"])
    labels = np.array([record["label"] for record in records])
    return cls / np.linalg.norm(cls, axis=1, keepdims=True), labels


known, known_labels = features_of(train, 1024)
asked, asked_labels = features_of(test, 256)
cosines = asked @ known.T
nearest = np.argsort(-cosines, axis=1)[:, :10]
weights = np.exp(np.take_along_axis(cosines, nearest, axis=1) / 0.07)
votes = np.stack(
    [np.sum(weights * (known_labels[nearest] == digit), axis=1) for digit in range(10)], axis=1
)
accuracy = 100 * np.mean(votes.argmax(axis=1) == asked_labels)
print(f"{accuracy:.1f} % of 256 test digits are recognized by their neighbors")

# %% [markdown]
# With 24 epochs of 50 steps a run reaches 91.4 % on all 359 test digits. A random network has
# 42.6 % before the first step, and the short run above is still below that: training moves the
# features before it improves them. The pixels themselves reach 97.5 %: digits are too easy to
# show more than that it learns.
#
# ## Where it looks
#
# The [CLS] token gathers what the network says about an image. Its attention to the 4 × 4 patches
# in the last block, one map per head:

# %%
images = [test[index]["image"] for index in range(3)]
attention = np.asarray(model.attention(images))  # [3, heads, 17, 17]; row and column 0 are [CLS]
maps = attention[:, :, 0, 1:].reshape(3, -1, 4, 4)
print("shares of the attention of head 0 for the first digit:")
print(np.round(maps[0, 0], 2))

# %% [markdown]
# `dino-jax visualize` draws it beside the images, and colors the patches by their principal
# components:

# %%
Path("runs/some").mkdir(exist_ok=True)
for index, image in enumerate(images):
    Image.fromarray(image).save(f"runs/some/{index}.png")
main(["visualize", "attention", RUN, "runs/some", "--out=runs/attention"])
sheets = sorted(Path("runs/attention").glob("*.png"))
Image.open(sheets[0])

# %% [markdown]
# Next: [search in your own photos](2_search_your_photos.py) with this network, and [what a run
# says when it goes wrong](3_read_a_diagnosis.py). [DINO, line by line](../methods/dino.md) has
# the equations beside the lines that compute them.
