"""Pictures from outside are opened in one place, in named formats; every failure is one error."""

import ast
import contextlib
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dino_jax
from dino_jax.data.decode import UnreadableImageError, decode_image
from dino_jax.foreign import files
from dino_jax.foreign.pictures import FORMATS, opened_picture, require_few_scans

RGB = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
LIMIT = 178_956_970


def _encode(kind, **options):
    buffer = BytesIO()
    Image.fromarray(RGB).save(buffer, kind, **options)
    return buffer.getvalue()


def test_pictures_are_opened_in_one_place():
    def opens(path):
        calls = [x.func for x in ast.walk(ast.parse(path.read_text())) if isinstance(x, ast.Call)]
        return "Image.open" in map(ast.unparse, calls)

    package = Path(dino_jax.__file__).parent
    with_open = [path.name for path in package.rglob("*.py") if opens(path)]
    assert with_open == ["pictures.py"]


def test_the_named_formats_are_opened_and_no_other_that_pillow_writes():
    Image.init()
    others = set(Image.SAVE) & set(Image.OPEN) - set(FORMATS) - {"DIB", "MPO", "WMF", "HDF5"}
    assert {"EPS", "ICO", "TGA", "JPEG2000"} <= others
    for kind in FORMATS:
        assert decode_image(_encode(kind), LIMIT).shape == RGB.shape
    refused = 0
    for kind in sorted(others):
        try:
            data = _encode(kind)
        except (OSError, ValueError):  # of another mode, or only written by an application
            continue
        with pytest.raises(UnreadableImageError):
            decode_image(data, LIMIT)
        refused += 1
    assert refused > 5


def test_no_ghostscript_is_started(tmp_path, monkeypatch):
    ran = tmp_path / "ran"
    (tmp_path / "gs").write_text(f"#!/bin/sh\necho ran >> {ran}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    for data in (eps, _encode("EPS"), b"\xc5\xd0\xd3\xc6" + eps):
        with pytest.raises(UnreadableImageError, match="cannot identify"):
            decode_image(data, LIMIT)
    assert not ran.exists()
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # it is remembered
    with contextlib.suppress(OSError):
        Image.open(BytesIO(eps)).load()  # what Pillow does with all its formats
    assert ran.exists()


def _wide_png(width):
    """65 bytes; Pillow's decoder refuses its rows with a MemoryError."""

    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, 1, 8, 2, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(b""))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b"")


def test_a_decoder_without_memory_makes_one_unreadable_image(monkeypatch):
    data = _wide_png(100_000_000)
    with pytest.raises(MemoryError), Image.open(BytesIO(data)) as image:
        image.load()
    with pytest.raises(UnreadableImageError, match="asks for more memory"):
        decode_image(data, LIMIT)
    monkeypatch.setattr(files, "_SMALL_IMAGE_BYTES", 1 << 62)  # there really is none
    with pytest.raises(MemoryError, match="out of memory"):
        decode_image(data, LIMIT)


def test_a_failure_of_any_kind_is_an_unreadable_image():
    for error in (RecursionError("deep"), AssertionError("x"), KeyError("k"), SyntaxError("y")):
        with pytest.raises(UnreadableImageError), opened_picture(_encode("PNG"), LIMIT):
            raise error


def _many_scans(data, times):
    """The last scan of a JPEG, again and again."""
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * times + data[-2:]


def test_a_jpeg_of_a_thousand_scans_is_refused():
    data = _encode("JPEG", progressive=True)
    assert decode_image(data, LIMIT).shape == RGB.shape
    assert decode_image(_many_scans(data, 50), LIMIT).shape == RGB.shape
    with pytest.raises(UnreadableImageError, match="256 pixels and more than 100 scans"):
        decode_image(_many_scans(data, 1000), LIMIT)
    with pytest.raises(UnreadableImageError, match="more than 20,000 segments"):
        require_few_scans(data[:2] + b"\xff\xfe\0\2" * 20_001 + data[2:])


def test_a_large_jpeg_may_have_fewer_scans():
    data = bytearray(_encode("JPEG", progressive=True))
    place = data.index(b"\xff\xc2") + 5  # start of frame: marker, length, precision, size
    data[place : place + 4] = struct.pack(">HH", 8000, 8000)
    require_few_scans(_many_scans(bytes(data), 8))
    with pytest.raises(UnreadableImageError, match="64,000,000 pixels and more than 20 scans"):
        require_few_scans(_many_scans(bytes(data), 50))


@pytest.mark.parametrize("progressive", [False, True])
def test_what_lies_in_segments_and_behind_the_end_of_a_jpeg_is_no_scan(progressive):
    scans = b"\xff\xda" * 1000
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + len(scans)) + scans
    data = _encode("JPEG", progressive=progressive)
    motion_photo = data[:2] + thumbnail + data[2:] + scans
    np.testing.assert_array_equal(decode_image(motion_photo, LIMIT), decode_image(data, LIMIT))
