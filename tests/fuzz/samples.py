"""Small valid files of every format that is read, as bytes."""

import functools
import io
import json
import pickle
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data import image_kinds

RGB = np.random.default_rng(0).integers(0, 256, (12, 17, 3), np.uint8)


def encode(pixels: np.ndarray, kind: str, mode: str = "RGB", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


@functools.cache
def images() -> tuple[bytes, ...]:
    return (
        encode(RGB, "JPEG"),
        encode(RGB, "JPEG", progressive=True),
        encode(RGB, "JPEG", "CMYK"),
        encode(RGB, "PNG"),
        encode(RGB, "PNG", "P"),
        encode(RGB, "PNG", "RGBA"),
        encode(RGB, "GIF"),
        encode(RGB, "BMP"),
        encode(RGB, "TIFF"),
        encode(RGB, "TIFF", compression="tiff_lzw"),
        encode(RGB, "TIFF", compression="tiff_adobe_deflate"),
        encode(RGB, "WEBP"),
        encode(RGB, "PPM"),
        b"P3 3 2 255 " + b"1 2 3 " * 6,
    )


@functools.cache
def deep_images() -> tuple[bytes, ...]:
    """Images of more bits and other channels, and of a noted orientation."""
    values, exif = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000, Image.Exif()
    exif[0x0112] = 6
    return (
        image_kinds.npy(values),
        image_kinds.npy(np.asfortranarray(values.astype(">f4"))),
        image_kinds.npy(np.zeros((4, 6, 8), np.int8)),
        image_kinds.tiff(values),
        image_kinds.tiff(values % 4096, bits=12),
        image_kinds.tiff(values.astype(np.float32), white_is_zero=True),
        image_kinds.png16(values),
        b"P5 8 6 4095\n" + values.tobytes(),
        b"Pf\n8 6\n-1.0\n" + values.astype("<f4").tobytes(),
        image_kinds.encode(Image.fromarray(values), "TIFF", exif=exif),
        image_kinds.encode(Image.fromarray(np.zeros((6, 8, 3), np.uint8)), "JPEG", exif=exif),
    )


@functools.cache
def tars() -> tuple[bytes, ...]:
    made = []
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=kind) as file:
            long = "" if kind == tarfile.USTAR_FORMAT else "d" * 120
            for name, data in (
                (f"{long}a.jpg", images()[0]),
                (f"{long}a.cls", b"3"),
                ("b.png", images()[3]),
                ("b.json", b'{"label": "cat", "more": [1, 2.5, null]}'),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))
        made.append(buffer.getvalue()[:8192])
    return tuple(made)


@functools.cache
def parquets() -> tuple[bytes, ...]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = []
    labels = pa.array([0, 1, 1])
    stored = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    for column in (
        [{"bytes": image, "path": f"{n}.jpg"} for n, image in enumerate(images()[:3])],
        list(images()[:3]),
    ):
        table = pa.table({"image": pa.array(column), "label": labels})
        table = table.replace_schema_metadata({"huggingface": json.dumps(stored)})
        for compression in ("none", "zstd", "snappy"):
            buffer = io.BytesIO()
            pq.write_table(table, buffer, row_group_size=2, compression=compression)
            made.append(buffer.getvalue())
        table = table.set_column(1, "label", pa.array(["cat", "dog", "dog"]))
        for encoding in ("DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"):
            buffer = io.BytesIO()
            columns = ("image", "image.bytes", "image.path", "label")
            options = {"use_dictionary": False, "column_encoding": dict.fromkeys(columns, encoding)}
            pq.write_table(table, buffer, row_group_size=2, **options)
            made.append(buffer.getvalue())
    return tuple(made)


def parquet_footer(data: bytes) -> bytes:
    return data[-8 - int.from_bytes(data[-8:-4], "little") : -8]


def with_footer(data: bytes, footer: bytes) -> bytes:
    """A Parquet file with another footer, whose length is right."""
    pages = data[: -8 - len(parquet_footer(data))]
    return pages + footer + len(footer).to_bytes(4, "little") + b"PAR1"


@functools.cache
def records() -> tuple[bytes, bytes, bytes]:
    """A shard, its dataset.json, and one record of the shard."""
    from dino_jax.data.sources.record_format import (
        Description,
        encode_record,
        shard_name,
        write_description,
    )

    one = encode_record({"image": images()[3], "label": 1, "name": "a.png"})
    name = shard_name(0, 1)
    with tempfile.TemporaryDirectory() as folder:
        write_description(folder, Description(("cat", "dog"), {name: 3}, (0.5,) * 3, (0.2,) * 3))
        write_shard(Path(folder, name), [one] * 3)
        return Path(folder, name).read_bytes(), Path(folder, "dataset.json").read_bytes(), one


def write_shard(path: Path, payloads: list[bytes]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    from dino_jax.data.sources.record_format import WRITE_OPTIONS

    writer = ArrayRecordWriter(str(path), WRITE_OPTIONS)
    for payload in payloads:
        writer.write(payload)
    writer.close()


def torch_pickles() -> tuple[bytes, ...]:
    from tests.weights.torch_files import pickled, tensor

    first, second = tensor("0", 6, (2, 3), (3, 1)), tensor("1", 4, (4,), (1,))
    several = b"(](X\x01\0\0\0aX\x01\0\0\0beq\0h\0h\0h\0l"  # a list in a list, four times
    nested = b"(" * 20 + b"t" * 20
    doubled = b")" + b"q\0h\0\x86" * 15  # a tuple that holds one twice, that holds one twice …
    return tuple(
        b"\x80\x02" + pickled({"a": first, "b": {"c": second}, "d": more}) + b"."
        for more in (1, several, nested, doubled)
    )


def torch_file(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("w/data.pkl", content)
        archive.writestr("w/byteorder", "little")
        archive.writestr("w/data/0", np.arange(6, dtype=np.float32).tobytes())
        archive.writestr("w/data/1", np.arange(4, dtype=np.float32).tobytes())
    return buffer.getvalue()


def safetensors_header() -> bytes:
    entry = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
    other = {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}
    return json.dumps({"__metadata__": {"format": "pt"}, "a": entry, "b.c": other}).encode()


def safetensors_file(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + bytes(32)


def plain_pickles() -> tuple[bytes, ...]:
    content = {
        "imlist": ["a", "b"],
        "gnd": [{"bbx": np.arange(4.0), "ok": np.array([1, 2]), "n": (1, None, True, b"x")}],
    }
    return tuple(pickle.dumps(content, protocol) for protocol in (2, 3, 4, 5))


def metrics() -> bytes:
    lines = [
        {"step": step, "loss": 7.2 / step, "lr": 1e-3, "knn10/teacher": 40.0 + step, "new": step}
        for step in range(1, 6)
    ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def diagnosis() -> bytes:
    state = {"state": "fine", "title": "Fine", "evidence": "x", "advice": "y", "severity": "ok"}
    return b"".join(json.dumps({"step": step, **state}).encode() + b"\n" for step in (1, 3))


def config() -> bytes:
    return json.dumps(
        {
            "format": 1,
            "batch_size": 16,
            "epochs": 4.0,
            "seed": 0,
            "evaluated": "teacher",
            "data": {"kind": "folder", "path": "x"},
            "network": {
                "backbone": {"kind": "vit", "embed_dim": 24, "depth": 2, "patch_size": 8},
                "heads": {"dino": {"kind": "dino", "out_dim": 64}},
            },
            "roles": {"teacher": {"follow": "average", "momentum": 0.9}},
        }
    ).encode()


def probes() -> bytes:
    neighbour = {"name": "b", "label": "dog", "cosine": 0.5}
    probe = {"name": "a", "label": "cat", "neighbours": [neighbour] * 3}
    return json.dumps({"step": 2, "heads": 2, "pca_explained": [0.5], "probes": [probe]}).encode()


YAML = b"""\
dino: {head_n_prototypes: 131072, head_bottleneck_dim: 384}
ibot: {separate_head: true, head_n_prototypes: 131072}
train:
  batch_size_per_gpu: 32
  dataset_path: "ImageNet:split=TRAIN:root=/data/in:extra=/x"
  centering: sinkhorn_knopp
student: {patch_size: 14, drop_path_rate: 0.4, ffn_layer: swiglufused, block_chunks: 4}
optim: {epochs: 500, base_lr: 2e-4, warmup_epochs: 80, layerwise_decay: 1.0}
"""
