"""Where weights come from: FILE.provenance.json beside every export, provenance.json in an import.

{"format": 1,
 "files": {"mine.onnx": "sha256 …"},               what this file is about
 "model": "teacher of step 100 of runs/mine",
 "weights": "32 hexadecimal digits",               of all numbers of the network that was read
 "license": "…",
 "sources": [{"path": …, "license": …, "provenance": {…}}],   weights that went in
 "data": {"config.data": {"images": 1438, "digest": "…"}},    images it was trained on
 "code": {"dino_jax": "0.2.0", "code of dino_jax": "…", "jax": "0.10.2", …},   wrote the file
 "written": "2026-11-30T07:00:00+00:00"}

Sources keep their own provenance, so the chain is not lost on the way through other programs, as
long as the file travels with the weights.
"""

import datetime
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from dino_jax.foreign.files import read_bytes
from dino_jax.foreign.json_text import parse_json, read_json
from dino_jax.foreign.names import one_line
from dino_jax.workdir.layout import CONFIG_JSON, DATA_JSON
from dino_jax.workdir.paths import absolute_path, write_atomically

FORMAT = 1
SUFFIX = ".provenance.json"
PROVENANCE_JSON = "provenance.json"  # in the folder of an import
MOST_BYTES = 1 << 20
MOST_SOURCES = 8  # of a chain of runs, each started from the one before
_CODE = ("dino_jax", "code of dino_jax", "Python", "jax", "flax", "numpy")
_PIECE = 1 << 24


def beside(file: epath.PathLike) -> epath.Path:
    """The provenance of a file of weights or a program."""
    path = epath.Path(file)
    return path.with_name(path.name + SUFFIX)


def fingerprint(variables: Any) -> str:
    """32 hexadecimal digits that tell weights from others, wherever they lie."""
    digest = hashlib.sha256()
    leaves, _ = jax.tree_util.tree_flatten_with_path(variables)
    for path, leaf in leaves:
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:32]


def sources_of(model: str, config: Mapping[str, Any] | None, depth: int = 0) -> list[dict]:
    """The weights that went into a model.

    Args:
      model: workdir of a run, folder of an import, or file of weights.
      config: plain config of a workdir or a folder; None: `model` is a file.
      depth: length of the chain so far; it ends at `MOST_SOURCES`.

    Raises:
      OSError: if a provenance cannot be read.
      ValueError: if one is damaged.
    """
    if config is None:
        return [_describe(model, "", read_provenance(beside(model)))]
    folder = absolute_path(model)
    if "imported" in config:
        came = config["imported"]
        return [_describe(came["file"], came["licence"], read_provenance(folder / PROVENANCE_JSON))]
    parts = [config.get("init_from", {}), *config.get("roles", {}).values()]
    paths = list(dict.fromkeys(path for part in parts if (path := part.get("path"))))
    return [_follow(path, depth + 1) for path in paths]


def _follow(path: str, depth: int) -> dict[str, Any]:
    """A source of a run: an import, a file, or another run, with what went into that."""
    place = absolute_path(path)
    if depth > MOST_SOURCES or not place.exists():
        return _describe(path, "", None) | {"note": "not there, or too far back, when exported"}
    if not place.is_dir():
        return _describe(path, "", read_provenance(beside(place)))
    config = read_json(place / CONFIG_JSON, MOST_BYTES) if (place / CONFIG_JSON).exists() else {}
    if not isinstance(config, dict):
        raise ValueError(f"{place / CONFIG_JSON} does not hold a JSON object")
    licence = config.get("imported", {}).get("licence", "")
    found = _describe(path, licence, None) | {"data": data_of(path)}
    return found | {"sources": sources_of(path, config, depth)}


def _describe(path: str, licence: str, provenance: dict[str, Any] | None) -> dict[str, Any]:
    found: dict[str, Any] = {"path": str(path)}
    if licence:
        found["license"] = licence
    return found | ({"provenance": provenance} if provenance else {})


def data_of(workdir: epath.PathLike) -> dict[str, Any]:
    """Number and digest of the images that a run has seen, by section; {} if it has not said."""
    file = absolute_path(workdir) / DATA_JSON
    try:
        noted = read_json(file, MOST_BYTES)
    except (OSError, ValueError):  # there is none, or a run would set it aside as damaged
        return {}
    return noted if isinstance(noted, dict) else {}


def write_provenance(
    files: Sequence[epath.Path], title: str, weights: str, licence: str, origin: Mapping[str, Any]
) -> epath.Path:
    """Writes the provenance of an export, beside its first file.

    Args:
      files: files that were written.
      title: what the model is.
      weights: fingerprint of its variables.
      licence: license of the weights.
      origin: "sources" and "data", see above.

    Returns:
      The new file.
    """
    from dino_jax.commands.facts import facts_of

    facts = facts_of({})
    document = {
        "format": FORMAT,
        "files": {file.name: f"sha256 {sha256_of(file)}" for file in files},
        "model": title,
        "weights": weights,
        "license": licence,
        **origin,
        "code": {name: facts[name] for name in _CODE if name in facts},
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    place = beside(files[0])
    write_atomically(place, json.dumps(document, indent=1) + "\n")
    return place


def read_provenance(file: epath.PathLike) -> dict[str, Any] | None:
    """Reads a provenance; None if there is none.

    Raises:
      OSError: if it cannot be read.
      ValueError: if it is damaged or of a later format.
    """
    path = epath.Path(file).expanduser()
    if not path.exists():
        return None
    try:
        document = parse_json(read_bytes(path, MOST_BYTES))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict) or type(document.get("format")) is not int:
        raise ValueError(f"{path} is not a provenance of dino_jax: it has no format")
    if not isinstance(document.get("license", ""), str):
        raise ValueError(f"{path} is not a provenance of dino_jax: its license is not a text")
    if document["format"] > FORMAT:
        raise ValueError(
            f"{path} has format {document['format']}, this version of dino_jax knows formats up to "
            f"{FORMAT}; install a newer one, or move the file away"
        )
    return document


def licence_in(file: epath.PathLike) -> str:
    """The license that the provenance beside a file of weights states; "" if it is of others."""
    document = read_provenance(beside(file))
    if document is None or not speaks_of(document, file):
        return ""
    return one_line(document.get("license", "")[:500])


def speaks_of(document: Mapping[str, Any], file: epath.PathLike) -> bool:
    """Whether a provenance is about the bytes of this file, whatever the file is called now."""
    files = document.get("files")
    known = files.values() if isinstance(files, dict) else ()
    return f"sha256 {sha256_of(file)}" in known


def sha256_of(file: epath.PathLike) -> str:
    """64 hexadecimal digits of the content of a file."""
    digest = hashlib.sha256()
    with epath.Path(file).expanduser().open("rb") as opened:
        while piece := opened.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
