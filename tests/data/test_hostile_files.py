"""One folder with everything that goes wrong with image files, from the disk to the batch."""

import os
import pickle
import re
import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dino_jax.data.augment import CropConfig
from dino_jax.data.building import build
from dino_jax.data.multi_crop import MultiCrop
from dino_jax.data.pipeline import build_train_stream
from dino_jax.data.sources import ArrayRecordSource, FolderSource

SIDE = 16  # of all images but some; crops show the whole image at this size
MAX_PIXELS = 2_000_000
HUGE = 20_000


def _pixels(seed):
    """[16, 16, 3] uint8, smooth enough for JPEG, different for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def _encode(image, format, **options):
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _jpeg(seed, mode="RGB", **options):
    return _encode(Image.fromarray(_pixels(seed)).convert(mode), "JPEG", quality=95, **options)


def _noisy_jpeg(seed):
    noise = np.random.default_rng(seed).integers(0, 256, (200, 200, 3), np.uint8)
    return _encode(Image.fromarray(noise), "JPEG")


def _rotated_jpeg(seed):
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: turn by 90 degrees
    return _jpeg(seed, exif=exif)


def _one_bit_png(side):
    """A black PNG of side * side pixels in side * side / 8,000 bytes or so."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packer = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def _jpeg_that_claims(side):
    """A JPEG whose header says side * side pixels; its data end long before."""
    data = bytearray(_jpeg(0))
    place = data.index(b"\xff\xc0") + 5  # start of frame: marker, length, precision, size
    data[place : place + 4] = struct.pack(">HH", side, side)
    return bytes(data)


READABLE = {
    "alpha.png": lambda: _encode(
        Image.fromarray(np.dstack([_pixels(1), _pixels(2)[..., 0]])), "PNG"
    ),
    "animated.gif": lambda: _encode(
        Image.fromarray(_pixels(3)),
        "GIF",
        save_all=True,
        append_images=[Image.fromarray(_pixels(4))],
    ),
    "bilevel.png": lambda: _encode(Image.fromarray(_pixels(5)).convert("1"), "PNG"),
    "cmyk.jpg": lambda: _jpeg(6, "CMYK"),
    "gray.jpg": lambda: _jpeg(7, "L"),
    "gray-alpha.png": lambda: _encode(Image.fromarray(_pixels(8)).convert("LA"), "PNG"),
    "large.png": lambda: _one_bit_png(1400),
    "one-pixel.png": lambda: _encode(Image.fromarray(_pixels(9)[:1, :1]), "PNG"),
    "palette.png": lambda: _encode(Image.fromarray(_pixels(10)).quantize(7), "PNG", transparency=0),
    "plain.JPEG": lambda: _jpeg(11),
    "progressive.jpg": lambda: _jpeg(12, progressive=True),
    "rotated.jpg": lambda: _rotated_jpeg(13),
    "trailing-garbage.jpg": lambda: _jpeg(15) + b"garbage" * 100,
    "wrong-suffix.png": lambda: _jpeg(16),
    "ünï 猫.webp": lambda: _encode(Image.fromarray(_pixels(17)), "WEBP", lossless=True),
    os.fsdecode(b"\xff\xfe.jpg"): lambda: _jpeg(18),
}
UNREADABLE = {
    "cut-header.jpg": lambda: _jpeg(20)[:30],
    "cut-header.png": lambda: _encode(Image.fromarray(_pixels(21)), "PNG")[:20],
    "empty.jpg": lambda: b"",
    "huge.jpg": lambda: _jpeg_that_claims(HUGE),
    "huge.png": lambda: _one_bit_png(HUGE),
    "html.jpg": lambda: b"<html><body>404 Not Found</body></html>",
    "noise.jpg": lambda: b"\xff\xd8\xff" + np.random.default_rng(0).bytes(3000),
    # Without config.data.range; its lower bytes would be lost.
    "sixteen-bit.png": lambda: _encode(
        Image.fromarray(_pixels(14)[..., 0].astype(np.uint16) * 257), "PNG"
    ),
    "truncated.jpg": lambda: _noisy_jpeg(22)[:9000],
    "truncated.png": lambda: _encode(Image.effect_noise((99, 99), 80), "PNG")[:4000],
}
AUGMENT_NOTHING = dict(
    size=(SIDE, SIDE),
    scale=(1.0, 1.0),
    ratio=(1.0, 1.0),
    flip=0.0,
    jitter=0.0,
    grayscale=0.0,
    blur=0.0,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile")
    for name, make in (READABLE | UNREADABLE).items():
        (root / name).write_bytes(make())
    return root


def _stream(source, **changes):
    multi_crop = MultiCrop({"whole": CropConfig(**AUGMENT_NOTHING)})
    options = dict(
        seed=0,
        batch_size=len(source) // 2 * 2,
        start_step=0,
        host=0,
        hosts=1,
        workers=0,
        threads=1,
        max_pixels=MAX_PIXELS,
    )
    return build_train_stream(source, multi_crop, **{**options, **changes})


def _as_pillow_decodes(path):
    """[16, 16, 3] int of a file that Pillow can read."""
    with Image.open(path) as image:
        return np.array(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(
            int
        )


def test_the_folder_is_what_it_says(folder):
    for name in READABLE:
        with Image.open(folder / name) as image:
            image.convert("RGB")
    for name in set(UNREADABLE) - {"huge.png", "sixteen-bit.png"}:  # which Pillow clips
        with pytest.raises(Exception, match=r"."), Image.open(folder / name) as image:
            image.convert("RGB")
    assert len({_as_pillow_decodes(folder / name).tobytes() for name in READABLE}) == len(READABLE)
    assert (folder / "huge.png").stat().st_size < 100_000


def test_every_file_is_decoded_as_pillow_does_or_replaced_by_the_next_that_can_be(folder):
    source = FolderSource(folder)
    names = [Path(source.path(index)).name for index in range(len(source))]
    assert set(names) == set(READABLE) | set(UNREADABLE)
    expected = {name: _as_pillow_decodes(folder / name) for name in READABLE}

    def next_readable(index):
        while names[index] not in READABLE:
            index = (index + 1) % len(names)
        return names[index]

    def shown(crop):
        return min(expected, key=lambda name: np.abs(expected[name] - crop).mean())

    seen, replaced = [], []
    stream = _stream(source, batch_size=len(source))
    batch = next(stream)  # one epoch
    stream.close()
    for crop, unreadable in zip(
        batch["global_crops"][:, 0], batch["unreadable"].tolist(), strict=True
    ):
        name = shown(crop)
        assert np.abs(expected[name] - crop).mean() < 1, name
        if unreadable < 0:
            seen.append(name)
        else:
            replaced.append(names[unreadable])
            assert name == next_readable(unreadable)
    assert sorted(seen) == sorted(READABLE)
    assert sorted(replaced) == sorted(UNREADABLE)


def _two_steps(streams):
    steps = []
    for _ in range(2):
        parts = [next(stream) for stream in streams]
        steps.append({key: np.concatenate([part[key] for part in parts]) for key in parts[0]})
    for stream in streams:
        stream.close()
    return steps


def test_hosts_and_workers_change_nothing_about_it(folder):
    source = FolderSource(folder)
    expected = _two_steps([_stream(source)])
    others = [
        _two_steps([_stream(source, host=0, hosts=2), _stream(source, host=1, hosts=2)]),
        _two_steps([_stream(source, workers=2)]),
        _two_steps([_stream(pickle.loads(pickle.dumps(source)), threads=2)]),
    ]
    for steps in others:
        for step, reference in zip(steps, expected, strict=True):
            assert step.keys() == reference.keys()
            for key in step:
                np.testing.assert_array_equal(step[key], reference[key])


def test_build_leaves_out_exactly_the_unreadable_files_and_names_them(folder, tmp_path):
    out = tmp_path / "out"
    arguments = [str(folder), f"--out={out}", "--workers=0", f"--max-pixels={MAX_PIXELS}"]
    assert build.main([*arguments, "--max-unreadable=0.5", "--compute-stats"]) == 0
    built = ArrayRecordSource(str(out))
    records = [built[index] for index in range(len(built))]
    assert [record["name"] for record in records] == sorted(READABLE)
    for record in records:
        assert record["image"] == (folder / record["name"]).read_bytes()
    report = os.fsdecode((out / "report.txt").read_bytes())
    listed = report.partition("unreadable images")[2].partition("\n\n")[0].splitlines()[1:]
    assert [Path(line.partition("\t")[0]).name for line in listed] == sorted(UNREADABLE)
    assert re.search(r"huge\.png\t.*pixels", report)
    stream = _stream(built)
    assert (next(stream)["unreadable"] == -1).all()
    stream.close()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_memory_stays_bounded_whatever_the_headers_claim(folder):
    """The 400 million pixels alone would be 1.2 GB."""
    program = f"""
from pathlib import Path
from dino_jax.data.reading import read_image
from dino_jax.data.sources import FolderSource
from tests.data.test_hostile_files import MAX_PIXELS, _stream

def peak_memory(name):  # MiB
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0]) // 1024

source = FolderSource({str(folder)!r})
names = [source.name(index).rpartition("/")[2] for index in range(len(source))]
read_image(source, names.index("plain.JPEG"), MAX_PIXELS)
Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
before = peak_memory("VmRSS")
next(_stream(source, batch_size=len(source)))
print("growth", peak_memory("VmHWM") - before)
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    growth = int(result.stdout.split("growth ")[1])
    print(f"peak memory grew by {growth} MiB")
    assert growth < 400
