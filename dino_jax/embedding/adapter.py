"""A linear layer on stored vectors: the result of `dino-jax tune --what=adapter`.

DIR/adapter.safetensors  weight [d, D] and bias [d], float32
DIR/adapter.json         what its vectors come from, what made it and what it was measured to gain;
                         written last
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dino_jax.embedding.projection import Projection
from dino_jax.foreign.files import open_regular
from dino_jax.foreign.json_text import read_json
from dino_jax.weights.provenance import sha256_of
from dino_jax.weights.safetensors_file import read_header, read_tensor
from dino_jax.workdir.paths import write_atomically, written_whole

FORMAT = 1
ADAPTER_FILE, ADAPTER_JSON = "adapter.safetensors", "adapter.json"
MOST_BYTES = 1 << 30  # of the tensors
MOST_JSON = 1 << 24
LEAST_LENGTH = 1e-12


class Adapter(NamedTuple):
    """x -> weight x / ||x|| + bias.

    Attributes:
      weight: [d, D] float32.
      bias: [d] float32.
    """

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] to [..., d], whose length is not 1."""
        lengths = jnp.linalg.norm(x, axis=-1, keepdims=True)
        unit = x / jnp.maximum(lengths, LEAST_LENGTH)
        return jnp.matmul(unit, self.weight.T, precision="highest") + self.bias

    def rows(self, vectors: np.ndarray) -> np.ndarray:
        """The same in NumPy: [n, D] of any dtype to [n, d] float32."""
        rows = np.asarray(vectors, np.float32)
        lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
        return rows / np.maximum(lengths, LEAST_LENGTH) @ self.weight.T + self.bias

    def save(self, path: Path) -> None:
        """Writes both tensors, the whole file or none."""
        from safetensors.numpy import save

        tensors = {name: np.ascontiguousarray(x) for name, x in self._asdict().items()}
        with written_whole(path) as place:
            Path(place).write_bytes(save(tensors))


class Adapted(NamedTuple):
    """A projection, if there is one, and then an adapter; both take [..., D] and give [..., d]."""

    projection: Projection | None
    adapter: Adapter

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.adapter(x if self.projection is None else self.projection(x))


def load_adapter(path: Path) -> Adapter:
    """Reads the file that `Adapter.save` has written; nothing in it is executed.

    Raises:
      ValueError: if it is something else.
      OSError: if it cannot be read.
    """
    with open_regular(path) as file:
        tensors = read_header(file)
        if set(tensors) != {"weight", "bias"}:
            raise ValueError(f"{path} is no adapter: it holds {sorted(tensors)[:5]}")
        if sum(tensor.nbytes for tensor in tensors.values()) > MOST_BYTES:
            raise ValueError(f"{path} is no adapter: it has more than {MOST_BYTES:,} bytes")
        weight, bias = (read_tensor(file, tensors[name]) for name in ("weight", "bias"))
    if weight.ndim != 2 or bias.shape != weight.shape[:1] or not weight.size:
        raise ValueError(f"{path} is no adapter: weight {weight.shape}, bias {bias.shape}")
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise ValueError(f"{path} is damaged: it has numbers that are not finite")
    return Adapter(weight.astype(np.float32), bias.astype(np.float32))


def save_adapter(folder: Path, adapter: Adapter, facts: Mapping[str, Any]) -> None:
    """Writes the folder of an adapter.

    Args:
      folder: is made if there is none.
      adapter: what is written.
      facts: for adapter.json: "origin", see `require_same_origin`, and whatever else is known.
    """
    folder.mkdir(parents=True, exist_ok=True)
    adapter.save(folder / ADAPTER_FILE)
    digest = sha256_of(folder / ADAPTER_FILE)
    document = {"format": FORMAT, "files": {ADAPTER_FILE: f"sha256 {digest}"}, **facts}
    write_atomically(folder / ADAPTER_JSON, json.dumps(document, indent=1) + "\n")


def open_adapter(folder: Path) -> tuple[Adapter, dict[str, Any]]:
    """Reads the folder of an adapter.

    Returns:
      The adapter and the content of adapter.json.

    Raises:
      ValueError: if a file is not the one that was written, or of a later format.
      OSError: if it is not there.
    """
    path = folder / ADAPTER_JSON
    if not path.exists():
        raise FileNotFoundError(
            f"--adapter={folder} is no folder of dino-jax tune: it has no {ADAPTER_JSON}"
        )
    facts = read_json(path, MOST_JSON)
    if not isinstance(facts, dict) or type(facts.get("format")) is not int:
        raise ValueError(f"{path} is not what dino-jax tune has written: it has no format")
    if facts["format"] > FORMAT:
        raise ValueError(f"{path} has format {facts['format']}, this version knows {FORMAT}")
    digest = sha256_of(folder / ADAPTER_FILE)
    files = facts.get("files")
    if not isinstance(files, dict) or files.get(ADAPTER_FILE) != f"sha256 {digest}":
        raise ValueError(f"{folder / ADAPTER_FILE} is damaged: its checksum differs")
    return load_adapter(folder / ADAPTER_FILE), facts


def sum_projection(projection: Projection | None) -> str:
    """32 hexadecimal digits that tell projections apart; "" for none."""
    if projection is None:
        return ""
    arrays = (np.ascontiguousarray(x, np.float32) for x in projection)
    return hashlib.sha256(b"".join(x.tobytes() for x in arrays)).hexdigest()[:32]


def require_same_origin(
    place: Path, facts: Mapping[str, Any], adapter: Adapter, origin: Mapping[str, Any]
) -> None:
    """Checks that an adapter was tuned on vectors of the same kind.

    Args:
      place: folder of the adapter, for messages.
      facts: content of adapter.json.
      adapter: the adapter.
      origin: of the vectors: "model", "fingerprint" ("" if unknown), "image_size", "tokens",
        "layers", "projection" and "dim". Where both fingerprints are known, titles do not count.

    Raises:
      ValueError: names what differs.
    """
    tuned = facts.get("origin")
    if not isinstance(tuned, dict):
        raise ValueError(f"{place / ADAPTER_JSON} does not say which vectors it is for")
    both = tuned.get("fingerprint") and origin["fingerprint"]
    skipped = "model" if both else "fingerprint"
    differing = [
        f"{name}: the adapter was tuned on {tuned.get(name)!r}, these have {value!r}"
        for name, value in origin.items()
        if name != skipped and tuned.get(name) != value
    ]
    if adapter.weight.shape[1] != origin["dim"]:
        differing.append(f"it takes {adapter.weight.shape[1]} numbers, not {origin['dim']}")
    if differing:
        raise ValueError(
            f"--adapter={place} is for other vectors: {'; '.join(differing)}; tune one on these"
        )
