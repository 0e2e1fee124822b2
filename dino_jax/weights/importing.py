"""The work of `dino-jax import`: a folder with a checkpoint of foreign weights."""

import argparse
import dataclasses
import json
from typing import Any

import jax
from etils import epath

from dino_jax.commands.command_line import run_command
from dino_jax.foreign.names import one_line
from dino_jax.weights import dinov3_license
from dino_jax.weights.provenance import PROVENANCE_JSON, beside, read_provenance, speaks_of
from dino_jax.weights.text_model import TEXT, copy_tokenizer
from dino_jax.weights.weights_file import NetworkFromFile, read_network
from dino_jax.workdir import checkpointing
from dino_jax.workdir.config_json import config_to_json
from dino_jax.workdir.layout import CONFIG_JSON
from dino_jax.workdir.paths import absolute_path, write_atomically

LICENSE_TXT = "LICENSE.txt"


def import_weights(
    file: epath.PathLike,
    out: epath.PathLike,
    role: str = "",
    num_heads: int | None = None,
    licence: str = "",
) -> list[str]:
    """Writes the network of a file of weights into a new folder.

    Args:
      file: as `weights_file.read_network` takes it, as the next three.
      out: the folder, local or gs://; it must be new or empty.
      role: "teacher" or "student" of a training checkpoint; "": the teacher, if there are two.
      num_heads: attention heads; None: as found beside the file, or 64 channels each.
      licence: license of the weights; "": as found.

    Returns:
      Lines about what was imported, assumed and left out.

    Raises:
      OSError: if the file cannot be read or the folder cannot be written.
      ValueError: if the file holds no known network, a tensor of it is missing, left over
        or of another shape (lists all of them), or the folder is not empty.
    """
    folder = absolute_path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"--out={out} exists and is not empty; choose a new folder")
    network = read_network(file, role, num_heads, licence)
    provenance = read_provenance(beside(file))
    told = []
    if provenance is not None and not speaks_of(provenance, file):
        told = [f"  left out: {beside(file)}, which is about other bytes"]
        provenance = None
    elif provenance is not None:
        told = [f"  provenance: kept, {provenance.get('model', 'of a model')!s:.200}"]
    if network.text is not None:
        told += copy_tokenizer(epath.Path(file).expanduser().parent, folder)
    write_network(network, folder, str(file), provenance)
    return [
        *network.lines,
        *map(one_line, told),
        f"  license of the weights: {network.licence}",
        *(dinov3_license.NOTICE if dinov3_license.is_under_it(network.licence) else ()),
        f"written: {folder}; use it like the workdir of a run",
    ]


def write_network(
    network: NetworkFromFile,
    folder: epath.Path,
    source: str,
    provenance: dict[str, Any] | None = None,
) -> None:
    """Writes a folder with a checkpoint of step 0, config.json, LICENSE.txt and provenance.json.

    All processes take part in the checkpoint; process 0 writes the rest.

    Args:
      network: network to write.
      folder: new or empty.
      source: origin of the weights, to be recorded.
      provenance: content of provenance.json; None: there is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state: dict[str, Any] = {"networks": {"teacher": network.variables}}
    if network.text is not None:
        state["networks"][TEXT] = network.text.variables
    if network.centers:
        state["objectives"] = {name: {"center": x} for name, x in network.centers.items()}
    checkpoints = checkpointing.open_checkpoints(folder, save_every_steps=1, keep=1)
    with checkpointing.closing(checkpoints):
        checkpointing.save(checkpoints, 0, state, force=True)
    if jax.process_index():
        return
    (folder / LICENSE_TXT).write_text(
        f"Weights imported from {source}\nLicense of the weights: {network.licence}\n"
    )
    if provenance is not None:
        write_atomically(folder / PROVENANCE_JSON, json.dumps(provenance, indent=1) + "\n")
    config = {
        "network": network.config,
        "image_size": network.image_size,
        "view": dataclasses.asdict(network.view),
        "imported": {"file": source, "licence": network.licence, "lines": network.lines},
    }
    if network.text is not None:
        config[TEXT] = network.text.config
    # Last: a folder without it is not a model yet.
    write_atomically(folder / CONFIG_JSON, config_to_json(config))


def run(given: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""

    def work() -> str:
        return "\n".join(
            import_weights(given.file, given.out, given.network, given.num_heads, given.license)
        )

    return run_command(work)
