"""The work of `dino-jax search build`: a new index, from photographs or from embedded vectors."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import jax
from etils import epath

from dino_jax.commands.batch_command import run_batch_command
from dino_jax.data.sources import FolderSource
from dino_jax.data.sources.decoded import decoded
from dino_jax.embedding import embed
from dino_jax.embedding.embedded import read_embedded
from dino_jax.embedding.embedder import check_tokens, width_of
from dino_jax.embedding.projection import load_projection
from dino_jax.embedding.shards import Rows, Shards
from dino_jax.search.adapted import open_tuned
from dino_jax.search.codes import unit_rows
from dino_jax.search.index import Index, open_index
from dino_jax.search.manifest import (
    ADAPTER,
    MANIFEST,
    Manifest,
    Origin,
    read_manifest,
    require_one_model,
)
from dino_jax.search.origin import fingerprint_of, open_projection, require_color
from dino_jax.search.photos import UPRIGHT, PhotoFile, digest_files, list_photos
from dino_jax.search.second import open_second
from dino_jax.search.segment import Row
from dino_jax.search.update import follow, set_metadata
from dino_jax.search.writer import ROWS_AT_ONCE, Blocks, writing
from dino_jax.weights.limits import check_batch, check_side
from dino_jax.weights.model import Model, load
from dino_jax.workdir.paths import absolute_path

NO_MODEL = """search build needs MODEL and PHOTOS, or --from=EMBEDDED.
MODEL is the workdir of a run, or a file of official weights of DINO or DINOv2. Without either, some
minutes on your own photos make a small one, which sees 32 x 32 pixels (two CPU cores, no labels):
  dino-jax train --config=quickstart --workdir=runs/mine --config.data.kind=folder \\
    --config.data.path=PHOTOS
From 10,000 photos on, and with an accelerator, take --config=small_data instead.
Released weights find more: docs/catalogue.md says where they are."""


def build_of_photos(arguments: argparse.Namespace) -> str:
    """Makes an index of a folder, or continues with one that was stopped; returns its last line."""
    check_batch(arguments.batch_size, jax.local_device_count())
    photos = str(Path(arguments.photos).expanduser().absolute())
    source, model = FolderSource(photos), load(arguments.model, arguments.step)
    require_color(model)
    check_tokens(model.network, arguments.tokens, arguments.layers)
    size = arguments.image_size or model.image_size
    check_side(model, size, "--image-size")
    options = _embed_options(arguments, model, photos, size)
    embed.check_dim(model, options, len(source))
    folder = Path(arguments.index).expanduser()
    tuned, origin = open_tuned(arguments.adapter), _origin_of(arguments, model, size)
    if tuned and origin.reduced:
        raise ValueError("--adapter and --reduce: pass --from=EMBEDDED, whose projection it knows")
    models, others = [model], ()
    if arguments.other:
        models.append(load(arguments.other))
        others = (_other_origin(arguments, models[1]),)
    origin = tuned.adapt_origin(origin, None) if tuned else origin
    new = Manifest(origin, photos, others=others)
    check_new(folder, new)
    with writing(folder, new) as writer:
        if not writer.manifest.generation and writer.manifest.origin.reduced:
            machine = embed.Machine(arguments.batch_size, arguments.threads)
            seen = decoded(source, UPRIGHT)
            writer.set_projection(embed.find_projection(model, options, seen, machine))
        if not writer.manifest.generation and tuned:
            tuned.keep(writer)
        if not writer.manifest.generation:
            writer.commit()
        lines = [follow(writer, models, source, arguments)]
        if arguments.metadata:
            lines.append(set_metadata(writer, arguments.metadata, arguments.key))
            writer.commit()
    return "\n".join(lines)


def _embed_options(
    arguments: argparse.Namespace, model: Model, photos: str, size: int
) -> embed.Options:
    """The same choice for `dino-jax embed`, whose projection is used."""
    return embed.Options(
        model=model.title,
        source={"kind": "folder", "path": photos},
        image_size=size,
        tokens=arguments.tokens,
        layers=arguments.layers,
        normalize=False,
        reduce=arguments.reduce,
        dim=arguments.dim,
        sample=arguments.sample,
        format="npy",
        shard_images=1,
        max_pixels=arguments.max_pixels,
    )


def _origin_of(arguments: argparse.Namespace, model: Model, size: int) -> Origin:
    reduced = arguments.reduce != "none"
    width = width_of(model, (size, size), arguments.tokens, arguments.layers)
    return Origin(
        model=model.title,
        fingerprint=fingerprint_of(model),
        path=str(absolute_path(arguments.model)),
        step=arguments.step,
        image_size=size,
        tokens=arguments.tokens,
        layers=arguments.layers,
        reduced=reduced,
        dim=arguments.dim if reduced else width,
    )


def _other_origin(arguments: argparse.Namespace, model: Model) -> Origin:
    """That of a second model, whose own choices are kept: texts lie where its vectors do."""
    require_color(model)
    size = model.image_size
    return Origin(
        model=model.title,
        fingerprint=fingerprint_of(model),
        path=str(absolute_path(arguments.other)),
        step=None,
        image_size=size,
        tokens="cls",
        layers=1,
        reduced=False,
        dim=width_of(model, (size, size), "cls", 1),
    )


def check_new(folder: Path, new: Manifest) -> None:
    """Checks that a folder is free, or an index of the same model and photographs.

    Raises:
      ValueError: if it is something else; says what differs.
    """
    if not (folder / MANIFEST).exists():
        if folder.exists() and (not folder.is_dir() or any(folder.glob("[!.]*"))):
            others = [path.name for path in folder.glob("[!.]*")] if folder.is_dir() else []
            if others != ["lock.json"]:
                raise ValueError(f"{folder} exists and is no index; choose another folder")
        return
    old = read_manifest(folder)
    theirs, ours = (
        {
            **dataclasses.asdict(x.origin),
            "photos": x.photos,
            "other models": [(other.fingerprint, other.image_size) for other in x.others],
        }
        for x in (old, new)
    )
    differing = [
        f"{name}: the index has {theirs[name]!r}, this command {ours[name]!r}"
        for name in ours
        if name not in ("path", "step", "model") and theirs[name] != ours[name]
    ]
    if differing:
        raise ValueError(
            f"{folder} is an index already, and another one: {'; '.join(differing)}; choose "
            "another folder, or use dino-jax search update"
        )


def build_of_vectors(arguments: argparse.Namespace) -> str:
    """Makes an index of a folder of `dino-jax embed`; returns its last line."""
    place = Path(arguments.embedded).expanduser()
    plan, shards = read_embedded(place, "--from")
    first = shards.read(0)
    origin = origin_of_plan(plan, first)
    if arguments.model:
        model = load(arguments.model, arguments.step)
        if model.title != origin.model:
            raise ValueError(
                f"{place} was made by {origin.model}, this model is {model.title}; pass the same"
            )
        path = str(absolute_path(arguments.model))
        origin = dataclasses.replace(
            origin, fingerprint=fingerprint_of(model), path=path, step=arguments.step
        )
    folder, tuned = Path(arguments.index).expanduser(), open_tuned(arguments.adapter)
    projection = load_projection(epath.Path(place / embed.PROJECTION)) if origin.reduced else None
    if tuned:
        origin = tuned.adapt_origin(origin, projection)
    second = open_second(arguments, plan, shards) if arguments.other_from else None
    others = (second.origin,) if second else ()
    new = Manifest(origin, photos_of_plan(plan), others=others)
    if (folder / MANIFEST).exists():
        raise ValueError(f"{folder} is an index already; choose another folder")
    check_new(folder, new)
    files = _files_of(new.photos)
    blocks = _blocks(shards, files)
    blocks = tuned.adapt(blocks) if tuned else blocks
    with writing(folder, new) as writer:
        if projection is not None:
            writer.set_projection(projection)
        if tuned:
            tuned.keep(writer)
        writer.add(second.beside(blocks) if second else blocks)
        lines = []
        writer.commit()
        if arguments.metadata:
            lines.append(set_metadata(writer, arguments.metadata, arguments.key))
            writer.commit()
        count = len(Index(folder, writer.manifest))
    known = f"their files are in {new.photos}" if files else "their files were not found"
    return "\n".join([f"{folder}: {count:,} photos of {new.dim} numbers; {known}", *lines])


def build_of_index(arguments: argparse.Namespace) -> str:
    """Makes an index of another one, its rows adapted; returns its last line."""
    tuned, folder = open_tuned(arguments.adapter), Path(arguments.index).expanduser()
    if tuned is None:
        raise ValueError(f"--from={arguments.embedded} is an index already; it needs --adapter")
    if (folder / MANIFEST).exists():
        raise ValueError(f"{folder} is an index already; choose another folder")
    old = open_index(arguments.embedded)
    if ADAPTER in old.manifest.single:
        raise ValueError(f"--from={old.folder} has an adapter already; name the first index")
    if old.manifest.others:
        raise ValueError(f"--from={old.folder} has vectors of several models; build it of photos")
    require_one_model(old.manifest, old.folder)
    projection = open_projection(old.manifest, old.folder)
    origin = tuned.adapt_origin(old.manifest.origin, projection)
    new = Manifest(origin, old.manifest.photos)
    check_new(folder, new)
    with writing(folder, new) as writer:
        if projection is not None:
            writer.set_projection(projection)
        tuned.keep(writer)
        if old.table:
            writer.set_table(old.table)
        writer.add(tuned.adapt(_rows_of(old)))
        writer.commit()
        count = len(Index(folder, writer.manifest))
    return f"{folder}: {count:,} photos of {origin.dim} numbers"


def _rows_of(index: Index) -> Blocks:
    numbers = [number for number, _ in index.rows()]
    for start in range(0, len(numbers), ROWS_AT_ONCE):
        some = numbers[start : start + ROWS_AT_ONCE]
        yield index.vectors(some), [index.row(number) for number in some]


def origin_of_plan(plan: dict[str, Any], first: Rows) -> Origin:
    """How the vectors of a folder of `dino-jax embed` were made; the model is a title."""
    return Origin(
        model=plan["model"],
        fingerprint="",
        path="",
        step=None,
        image_size=int(plan["image_size"]),
        tokens=plan["tokens"],
        layers=int(plan["layers"]),
        reduced=plan["reduce"] != "none",
        dim=first.vectors.shape[1],
    )


def photos_of_plan(plan: dict[str, Any]) -> str:
    """The folder of the images, "" if they are something else."""
    path = plan.get("source.path", "")
    is_folder = plan.get("source.kind") == "folder" and path
    return str(Path(path).expanduser().absolute()) if is_folder else ""


def _files_of(photos: str) -> dict[str, tuple[PhotoFile, str]]:
    """The files of a folder with their digests by name; {} if it is not there."""
    if not photos or not Path(photos).is_dir():
        return {}
    files = list_photos(FolderSource(photos), photos)
    digests = digest_files(file.path for file in files)
    return {file.name: (file, digest) for file, digest in zip(files, digests, strict=True)}


def _blocks(shards: Shards, files: dict[str, tuple[PhotoFile, str]]) -> Blocks:
    for shard in range(shards.count):
        rows = shards.read(shard)
        named = []
        for name, label in zip(rows.names, rows.labels, strict=True):
            file, digest = files.get(name, (None, ""))
            size, mtime_ns = (file.size, file.mtime_ns) if file else (0, 0)
            named.append(Row(name, label, size, mtime_ns, digest))
        if named:
            yield unit_rows(rows.vectors), named


def build(arguments: argparse.Namespace) -> str:
    """Makes an index; returns lines about it."""
    if arguments.embedded and arguments.other and not arguments.other_from:
        raise ValueError(
            "--other beside --from needs --other-from=EMBEDDED: vectors of the second model"
        )
    if arguments.other_from and not arguments.embedded:
        raise ValueError("--other-from is for --from; beside PHOTOS, --other=MODEL embeds them")
    if arguments.embedded and arguments.photos:
        raise ValueError("PHOTOS and --from exclude each other: vectors are there already")
    if arguments.embedded and (Path(arguments.embedded).expanduser() / MANIFEST).exists():
        return build_of_index(arguments)
    if arguments.embedded:
        return build_of_vectors(arguments)
    if not arguments.model or not arguments.photos:
        raise ValueError(NO_MODEL)
    return build_of_photos(arguments)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    arguments.distributed = False
    when_stopped = "what was committed stays; the same command continues"
    return run_batch_command(lambda _: build(arguments), when_stopped, arguments)
