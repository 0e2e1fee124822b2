"""The text tower of an imported CLIP or SigLIP, with its tokenizer: texts to vectors."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from etils import epath

from dino_jax.config.section import section
from dino_jax.foreign.files import read_bytes
from dino_jax.models import text_tower
from dino_jax.models.layers import l2_normalize
from dino_jax.weights.clip_names import is_clip
from dino_jax.weights.state_dict import read_state_dict
from dino_jax.weights.suffixes import SUFFIXES
from dino_jax.weights.tokens import MOST_BYTES, TextTokenizer, open_tokenizer, tokenizer_files
from dino_jax.weights.torch_names import Variables
from dino_jax.weights.weights_file import read_network
from dino_jax.workdir import checkpointing
from dino_jax.workdir.config_json import read_config_json
from dino_jax.workdir.paths import absolute_path, write_atomically

TEXT = "text"  # its section in config.json, and its name among the networks of the checkpoint
BATCH = 8  # texts that are embedded at once


class TextModel:
    """Turns texts into vectors that lie beside those of images.

    Attributes:
      title: origin of the weights.
      tower: the text tower.
      variables: its float32 variables.
    """

    def __init__(
        self,
        title: str,
        tower: text_tower.TextTower,
        variables: Variables,
        tokenizer: TextTokenizer,
    ):
        self.title, self.tower, self.variables = title, tower, variables
        self._tokenizer = tokenizer
        self._apply = jax.jit(partial(_embed, tower))

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """[n, D] float32 vectors of length 1 of n texts.

        Raises:
          ValueError: as `TextTokenizer`.
        """
        ids = self._tokenizer(texts)
        found = []
        for start in range(0, len(ids), BATCH):
            some = ids[start : start + BATCH]
            batch = BATCH if len(some) > 1 else 1  # two shapes to compile; most queries are one
            full = np.pad(some, ((0, batch - len(some)), (0, 0)), mode="edge")
            found.append(np.asarray(self._apply(self.variables, full))[: len(some)])
        return np.concatenate(found) if found else np.zeros((0, self.tower.embed_dim), np.float32)


def _embed(tower: text_tower.TextTower, variables: Variables, ids: jax.Array) -> Any:
    features: Any = tower.apply(variables, ids)
    return l2_normalize(features)


def has_text(path: str | epath.PathLike) -> bool:
    """Whether a model reads texts: the folder of an import, or a file, of CLIP or SigLIP.

    Raises:
      OSError: if it cannot be read.
      ValueError: if it is damaged.
    """
    if str(path).endswith(SUFFIXES):
        return is_clip(read_state_dict(path))
    return TEXT in (read_config_json(absolute_path(path)) or {})


def load_text(path: str | epath.PathLike, step: int | None = None) -> TextModel:
    """Loads the text tower of a model.

    Args:
      path: folder of `dino-jax import`, or the file that it was made of.
      step: checkpoint of a folder; None: the newest.

    Raises:
      OSError: if it is not there, or has no tokenizer.
      ValueError: if it reads no texts, a file of it is damaged, or the extra `text` is missing.
    """
    if str(path).endswith(SUFFIXES):
        part = read_network(path).text
        if part is None:
            raise ValueError(f"{path} reads no texts; a CLIP or SigLIP does")
        folder, config = epath.Path(path).expanduser().parent, part.config
        variables, title = part.variables, str(path)
    else:
        folder = absolute_path(path)
        config = (read_config_json(folder) or {}).get(TEXT)
        if config is None:
            raise ValueError(f"{folder} reads no texts; an imported CLIP or SigLIP does")
        variables, step = checkpointing.read_network(folder, step, TEXT)
        title = f"{TEXT} of step {step} of {folder}"
    typed = section(TEXT, config, text_tower.Config)
    pad = typed.pad_token if typed.pooling == "last" else None
    tokenizer = open_tokenizer(folder, typed.length, typed.vocabulary, pad)
    return TextModel(title, text_tower.build_text(typed), variables, tokenizer)


def copy_tokenizer(source: epath.Path, folder: epath.Path) -> list[str]:
    """Copies the tokenizer that lies beside weights; returns a line about it."""
    files = tokenizer_files(source)
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        content = read_bytes(file, MOST_BYTES).decode()
        write_atomically(folder / file.name, content)
    if files:
        return [f"  tokenizer: {', '.join(file.name for file in files)}, copied"]
    return ["  no tokenizer beside the weights: text queries need tokenizer.json"]
