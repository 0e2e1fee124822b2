"""The readers of foreign bytes: how a damaged input is made, how it is read, what may be raised."""

import ast
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.fuzz import samples
from tests.fuzz.mutation import mutate, put_special

MAX_PIXELS = 178_956_970  # the default of config.max_pixels
SPECIAL_SHARE = 0.08  # of the inputs that are files


class Reader(NamedTuple):
    """One reader.

    Attributes:
      make: puts an input into an empty folder.
      read: reads it; returns anything.
      raises: the documented errors.
      weight: share of the inputs, relative to the others.
    """

    make: Callable[[Path, np.random.Generator], None]
    read: Callable[[Path], object]
    raises: tuple[type[Exception], ...]
    weight: float = 1.0


def _put(path: Path, data: bytes, others: Sequence[bytes], rng: np.random.Generator) -> None:
    """A damaged file, or no file at all."""
    if rng.random() < SPECIAL_SHARE:
        put_special(path, rng)
    else:
        path.write_bytes(mutate(data, others, rng))


def _files(**valid: Callable[[], Sequence[bytes]]) -> Callable[[Path, np.random.Generator], None]:
    """Makes files, one of which is damaged; "__" stands for "." in a name, "_DIR_" for a folder."""

    def make(folder: Path, rng: np.random.Generator) -> None:
        damaged = list(valid)[rng.integers(len(valid))]
        for name, variants in valid.items():
            path = folder / name.replace("_DIR_", "/").replace("__", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            choices = variants()
            data = choices[rng.integers(len(choices))]
            if name == damaged:
                _put(path, data, choices, rng)
            else:
                path.write_bytes(data)

    return make


def _one(make: Callable[[], bytes]) -> Callable[[], tuple[bytes]]:
    return lambda: (make(),)


def _read_image(folder: Path) -> object:
    from dino_jax.data.decode import decode_image

    path = folder / "x.bin"
    return decode_image(path.read_bytes() if path.exists() else b"", MAX_PIXELS)


def _make_image(folder: Path, rng: np.random.Generator) -> None:
    valid = samples.images()
    (folder / "x.bin").write_bytes(mutate(valid[rng.integers(len(valid))], valid, rng))


def _read_deep_image(folder: Path) -> object:
    """With every rule; it is unreadable if all of them refuse it."""
    from dino_jax.data.decode import UnreadableImageError, decode_image
    from dino_jax.data.decoding import Decoding

    data, refused = (folder / "x.bin").read_bytes(), []
    rules = ((1, "full"), (3, "0,4095"), (1, "1%,99%"), (3, "1%,99%"), (4, "1%,99%"), (3, "byte"))
    for channels, text in rules:
        decoding = Decoding(channels, text, orientation="apply")
        try:
            pixels = decode_image(data, MAX_PIXELS, decoding)
        except UnreadableImageError as error:
            refused.append(error)
        else:
            assert pixels.shape[2] == channels and pixels.dtype == np.uint8
    if len(refused) == len(rules):
        raise refused[-1]
    return None


def _make_deep_image(folder: Path, rng: np.random.Generator) -> None:
    valid = samples.deep_images()
    (folder / "x.bin").write_bytes(mutate(valid[rng.integers(len(valid))], valid, rng))


def _read_values(folder: Path) -> object:
    from dino_jax.evaluation.image_files import read_values

    return read_values(folder / "x.png")


def _read_folder(folder: Path) -> object:
    """As training, build and embed do; odd names besides."""
    from dino_jax.data.building.inspection import inspect_image
    from dino_jax.data.decode import UnreadableImageError
    from dino_jax.data.reading import read_image
    from dino_jax.data.sources import FolderSource, GlobSource

    for source in (FolderSource(folder), GlobSource(f"{folder}/**/*.png")):
        for index in range(len(source)):
            name = source.name(index)
            assert name.isprintable(), name
            try:
                read_image(source, index, MAX_PIXELS)
            except UnreadableImageError as error:
                assert str(error).isprintable(), error
            inspection = inspect_image(source, index, MAX_PIXELS, moments=True)
            assert inspection.error.isprintable(), inspection.error
    return None


def _make_folder(folder: Path, rng: np.random.Generator) -> None:
    for number in range(3):
        letters = rng.choice(np.array([1, 9, 10, 13, 27, 92, 97, 127, 128, 200, 255]), 6)
        place = bytes(folder) + b"/" + bytes(letters.tolist()) + b"%d.png" % number
        path = Path(place.decode(errors="surrogateescape"))
        _put(path, samples.images()[3], samples.images(), rng)


def _read_all(kind: str, folder: Path) -> object:
    """All images and labels of a source, as far as they can be read."""
    from dino_jax.data.decode import UnreadableImageError
    from dino_jax.data.reading import read_image
    from dino_jax.data.sources import build_source

    options = {"kind": kind, "path": str(folder / "x.txt" if kind == "list" else folder)}
    if kind == "parquet":
        options |= {"image_column": "image", "label_column": "label"}
    source = build_source(options)
    for index in range(min(len(source), 20)):
        try:
            _, label, _ = read_image(source, index, MAX_PIXELS)
        except UnreadableImageError as error:
            assert str(error).isprintable(), error
            continue
        assert -1 <= label < max(len(source.class_names), 1), label
    return None


def _make_tar(folder: Path, rng: np.random.Generator) -> None:
    _files(x__tar=samples.tars)(folder, rng)
    path = folder / "x.tar"
    if path.is_file() and path.stat().st_size < 1 << 22 and rng.random() < 0.7:
        path.write_bytes(_with_checksums(path.read_bytes()))


def _with_checksums(data: bytes) -> bytes:
    """Headers of a tar file that claim to be right."""
    changed = bytearray(data)
    for start in range(0, len(data) - 511, 512):
        if changed[start + 257 : start + 262] == b"ustar":
            changed[start + 148 : start + 156] = b" " * 8
            total = sum(changed[start : start + 512])
            changed[start + 148 : start + 156] = b"%06o\0 " % total
    return bytes(changed)


def _make_parquet(folder: Path, rng: np.random.Generator) -> None:
    valid = samples.parquets()
    data = valid[rng.integers(len(valid))]
    if rng.random() < 0.5:
        _put(folder / "x.parquet", data, valid, rng)
        return
    footers = [samples.parquet_footer(each) for each in valid]
    footer = mutate(samples.parquet_footer(data), footers, rng)
    (folder / "x.parquet").write_bytes(samples.with_footer(data, footer))


def _make_records(folder: Path, rng: np.random.Generator) -> None:
    shard, description, one = samples.records()
    name = "images-00000-of-00001.arrayrecord"
    (folder / name).write_bytes(shard)
    (folder / "dataset.json").write_bytes(description)
    way = rng.integers(3)
    if way == 0:
        _put(folder / name, shard, [shard], rng)
    elif way == 1:
        _put(folder / "dataset.json", description, [description], rng)
    else:
        (folder / name).unlink()
        samples.write_shard(folder / name, [mutate(one, [one], rng) for _ in range(3)])


def _make_list(folder: Path, rng: np.random.Generator) -> None:
    (folder / "a.png").write_bytes(samples.images()[3])
    lines = b"a.png\tcat\nb.png\tdog\n/dev/zero\n../a.png\n"
    _files(x__txt=lambda: (lines,))(folder, rng)


def _read_history(folder: Path) -> object:
    from etils import epath

    from dino_jax.workdir.json_lines import read_history

    return read_history(epath.Path(folder / "x.jsonl"))


def _read_json(folder: Path) -> object:
    from dino_jax.foreign.json_text import read_json

    return read_json(folder / "x.json", 1 << 22)


def _read_report(folder: Path) -> object:
    from dino_jax.report.write import write_report

    size = write_report([folder], folder / "report.html")
    assert size < 20e6, size
    return size


def _read_yaml(folder: Path) -> object:
    from dino_jax.commands.config_from_yaml import convert
    from dino_jax.foreign.files import read_bytes

    source, _ = convert(read_bytes(folder / "x.yaml", 1 << 22), "x.yaml", 2)
    tree = ast.parse(source)
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = {ast.unparse(call).rpartition(".")[2] for call in calls}
    assert names <= {"get_config", "update", "ConfigDict", "dict"}, names
    return source


def _make_torch(folder: Path, rng: np.random.Generator) -> None:
    pickles = samples.torch_pickles()
    content = pickles[rng.integers(len(pickles))]
    if rng.random() < 0.7:
        (folder / "x.pth").write_bytes(samples.torch_file(mutate(content, pickles, rng)))
    else:
        valid = samples.torch_file(content)
        _put(folder / "x.pth", valid, [valid], rng)


def _make_safetensors(folder: Path, rng: np.random.Generator) -> None:
    header = samples.safetensors_header()
    if rng.random() < 0.7:
        data = samples.safetensors_file(mutate(header, [header], rng))
        (folder / "x.safetensors").write_bytes(data)
    else:
        valid = samples.safetensors_file(header)
        _put(folder / "x.safetensors", valid, [valid], rng)


def _read_weights(name: str, folder: Path) -> object:
    from dino_jax.weights.state_dict import read_weights

    return read_weights(folder / name)


def _make_pickle(folder: Path, rng: np.random.Generator) -> None:
    _files(x__pkl=samples.plain_pickles)(folder, rng)


def _read_pickle(folder: Path) -> object:
    from dino_jax.evaluation.plain_pickle import read_plain_pickle
    from dino_jax.foreign.files import read_bytes

    return read_plain_pickle(read_bytes(folder / "x.pkl", 1 << 26))


def _read_card(folder: Path) -> object:
    from dino_jax.weights.model_card import read_model_card

    return read_model_card(folder / "x.pth")


def _cards() -> tuple[bytes]:
    return (b'{"num_attention_heads": 6, "layer_norm_eps": 1e-06, "hidden_act": "gelu"}',)


def _pixels() -> tuple[bytes]:
    return (b'{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}',)


def _read_run(folder: Path) -> object:
    from dino_jax.weights.finished_run import read_run

    return read_run(folder)


def _unreadable() -> type[Exception]:
    from dino_jax.foreign.pictures import UnreadableImageError

    return UnreadableImageError


BOTH = (ValueError, OSError)
READERS: dict[str, Reader] = {
    "image": Reader(_make_image, _read_image, (_unreadable(),), 3),
    "deep_image": Reader(_make_deep_image, _read_deep_image, (_unreadable(),), 3),
    "folder": Reader(_make_folder, _read_folder, BOTH),
    "tar": Reader(_make_tar, functools.partial(_read_all, "tar"), BOTH, 2),
    "parquet": Reader(_make_parquet, functools.partial(_read_all, "parquet"), BOTH, 2),
    "arrayrecord": Reader(_make_records, functools.partial(_read_all, "arrayrecord"), BOTH),
    "list": Reader(_make_list, functools.partial(_read_all, "list"), BOTH),
    "json": Reader(_files(x__json=_one(samples.probes)), _read_json, BOTH),
    "history": Reader(_files(x__jsonl=_one(samples.metrics)), _read_history, (OSError,)),
    "report": Reader(
        _files(
            metrics__jsonl=_one(samples.metrics),
            config__json=_one(samples.config),
            diagnosis__jsonl=_one(samples.diagnosis),
            crops__png=samples.images,
            probes_DIR_2_DIR_probes__json=_one(samples.probes),
            probes_DIR_2_DIR_00_heads__png=samples.images,
            probes_DIR_2_DIR_00_neighbours__png=samples.images,
            probes_DIR_images_DIR_00__png=samples.images,
        ),
        _read_report,
        BOTH,
        2,
    ),
    "yaml": Reader(_files(x__yaml=lambda: (samples.YAML,)), _read_yaml, BOTH),
    # From here on jax is needed.
    "torch": Reader(_make_torch, functools.partial(_read_weights, "x.pth"), BOTH, 2),
    "safetensors": Reader(
        _make_safetensors, functools.partial(_read_weights, "x.safetensors"), BOTH
    ),
    "pickle": Reader(_make_pickle, _read_pickle, BOTH),
    "card": Reader(
        _files(config__json=_cards, preprocessor_config__json=_pixels), _read_card, BOTH, 0.5
    ),
    "run": Reader(_files(config__json=_one(samples.config)), _read_run, BOTH),
    "values": Reader(_files(x__png=samples.images), _read_values, (*BOTH,)),
}
