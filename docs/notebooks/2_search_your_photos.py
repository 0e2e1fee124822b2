# %% [markdown]
# # Search your photos
#
# A folder of photographs becomes an index; the index answers which of them are most like another
# photograph. The answers are exact. Put your own folder into `PHOTOS` and a better network into
# `MODEL`: the workdir of a run on your photos, or a file of released weights
# ([weights](../weights.md)). Without either, the script takes drawings of digits and the small
# network of [the first notebook](1_digits_to_attention.py), which it trains if it has to.
#
# To run it: `python docs/notebooks/2_search_your_photos.py`, or cell by cell in Jupyter with
# jupytext.

# %%
from pathlib import Path

import numpy as np
from PIL import Image

import dino_jax
from dino_jax.__main__ import main
from dino_jax.data.sources.digits import DigitsSource
from dino_jax.search.index import open_index

PHOTOS, MODEL, INDEX = Path("photos"), "runs/digits", "shop"

# %%
if not PHOTOS.exists():
    digits = DigitsSource("test")
    for number in range(120):
        record = digits[number]
        folder = PHOTOS / f"digit_{record['label']}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(record["image"]).save(folder / f"{number:03}.png")
if MODEL == "runs/digits" and not Path(MODEL).exists():
    short = ["--config.steps_per_epoch=20", "--config.epochs=2"]
    main(["train", "--config=quickstart", f"--workdir={MODEL}", *short])

# %% [markdown]
# ## The index
#
# One vector per photo. The same command continues a build that was stopped; `search update` takes
# in what is new and lets go of what has vanished.

# %%
if not Path(INDEX).exists():
    main(["search", "build", INDEX, MODEL, str(PHOTOS)])

# %% [markdown]
# ## A question
#
# The photo itself is in the index, so it comes first, with a cosine of 1.

# %%
query = sorted(PHOTOS.rglob("*.png"))[0]
main(["search", "query", INDEX, str(query), "-k", "5"])

# %% [markdown]
# `dino-jax search serve shop` opens the same as a page on your own machine: drop a photo on it,
# drag over a part of it, narrow down by columns of a table.
#
# ## The same in Python
#
# `proven` says that no other photo of the index is nearer, not even by rounding.

# %%
model, index = dino_jax.load(MODEL), open_index(INDEX)
vector = np.asarray(model([str(query)])["cls"])[0]
found = index.search(vector, k=5)
for number, score in zip(found.rows, found.scores, strict=True):
    print(f"{score:.3f}  {index.row(int(number)).name}")
print("proven:", found.proven)

# %% [markdown]
# Filters are part of the question: the answer is exact among those that are left. `label` is the
# folder of a photo.

# %%
main(["search", "query", INDEX, str(query), "-k", "3", "--where", "label!=digit_0"])

# %% [markdown]
# ## How good is it?
#
# If photos of the same thing share a folder or a column, this is measured without any further
# work: every photo asks for the others of its kind.

# %%
main(["search", "evaluate", INDEX, "--label=label"])

# %% [markdown]
# Figures of a network that has seen 2,560 digits are poor. [Search in a catalogue](../catalogue.md)
# says what helps: a network that fits the photos, several photos of a thing, tuning
# ([tuning](../tuning.md)).
#
# ## Copies
#
# The same picture in two sizes or qualities, before they are sold twice:

# %%
main(["search", "duplicates", INDEX, "--threshold=0.9999", "--out=runs/duplicates"])
