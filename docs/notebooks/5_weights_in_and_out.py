# %% [markdown]
# # Weights in and out
#
# A trained network leaves under the names of the official code, Hugging Face's or timm's, and
# comes back in from any of them. No torch is needed, and nothing in a file is executed. The
# network is that of [the first notebook](1_digits_to_attention.py), which this one trains if it
# has to; in place of `runs/digits` may stand a run of your own or a released file such as
# `dinov2_vits14_pretrain.pth`.
#
# To run it: `python docs/notebooks/5_weights_in_and_out.py`, or cell by cell in Jupyter with
# jupytext.

# %%
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import dino_jax
from dino_jax.__main__ import main
from dino_jax.data.sources.digits import DigitsSource

MODEL, OUT = "runs/digits", Path("weights")

# %%
if not Path(MODEL).exists():
    short = ["--config.steps_per_epoch=20", "--config.epochs=2"]
    main(["train", "--config=quickstart", f"--workdir={MODEL}", *short])
images = np.stack([DigitsSource("test")[index]["image"] for index in range(4)])
model = dino_jax.load(MODEL)
features = np.asarray(model(images)["cls"])
print(model.title, features.shape)

# %% [markdown]
# ## Out
#
# The export reads what it has written and compares features before it says that it is done.

# %%
OUT.mkdir(exist_ok=True)
official, face = OUT / "official.safetensors", OUT / "huggingface"
if not official.exists():
    main(["export", MODEL, f"--out={official}", "--names=official"])
if not face.exists():
    main(["export", MODEL, f"--out={face}", "--names=huggingface"])

# %% [markdown]
# The official names, with torch's order of axes (a linear layer is [out, in]):

# %%
tensors = load_file(official)
for name in sorted(tensors)[:6]:
    print(f"{name:32} {tensors[name].shape}")

# %% [markdown]
# Queries, keys and values are one matrix there as well as here, transposed:

# %%
ours = np.asarray(
    model.variables["params"]["backbone"]["blocks"]["attention"]["qkv"]["kernel"]
)  # all blocks along the first axis
theirs = tensors["blocks.0.attn.qkv.weight"]
print(ours.shape, theirs.shape, "equal:", np.array_equal(ours[0].T, theirs))

# %% [markdown]
# ## In
#
# A file can be used as it is. What no shape tells is read from a file beside it or assumed, and
# said: the number of attention heads, for example, is 64 channels each in all official models,
# but not in this tiny one.

# %%
imported = OUT / "imported"
if not imported.exists():
    main(["import", str(official), f"--out={imported}", "--num-heads=3"])
again = np.asarray(dino_jax.load(imported)(images)["cls"])
difference = float(np.abs(again - features).max())
print(f"largest difference of a feature after out and in: {difference:.1e}")

# %% [markdown]
# Hugging Face's `transformers` reads the folder `weights/huggingface`:
#
# ```python
# from transformers import AutoModel
# AutoModel.from_pretrained("weights/huggingface")
# ```
#
# ## Further
#
# A new run may start from any of these, with a guard against making them worse
# ([continuing](../continuing.md)):
#
# ```bash
# dino-jax train --config=vits16_small_data --workdir=runs/mine \
#   --config.init_from.path=weights/imported --config.data.path=PHOTOS
# ```
#
# `dino-jax export … --format=onnx` writes a program that runs without this package, weights
# included. [Weights](../weights.md) has the table of all that is understood.
