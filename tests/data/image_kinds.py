"""Image files of many depths, signs and layouts, made from numbers that are known."""

import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image


def encode(image: Image.Image, image_format: str, **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def npy(values: np.ndarray) -> bytes:
    buffer = BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def tiff(
    values: np.ndarray, *, white_is_zero: bool = False, bits: int = 0, extra: int = 0
) -> bytes:
    """An uncompressed TIFF 6.0 of one strip, in little-endian order.

    Args:
      values: [H, W] or [H, W, C] numbers.
      white_is_zero: whether PhotometricInterpretation says so.
      bits: BitsPerSample, where it is 12; else that of the type.
      extra: ExtraSamples of channels after the third.
    """
    values = values if values.ndim == 3 else values[..., None]
    height, width, channels = values.shape
    sample_format = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    if bits == 12:
        pairs = values.reshape(-1, 2).astype(np.uint32)
        word = pairs[:, 0] << 12 | pairs[:, 1]
        data = b"".join(int(one).to_bytes(3, "big") for one in word)
    depth = bits or values.dtype.itemsize * 8
    color = 2 if channels >= 3 else 0 if white_is_zero else 1
    entries = [
        (256, 4, (width,)),
        (257, 4, (height,)),
        (258, 3, (depth,) * channels),
        (259, 3, (1,)),
        (262, 3, (color,)),
        (273, 4, (0,)),  # where the strip begins, set below
        (277, 3, (channels,)),
        (278, 4, (height,)),
        (279, 4, (len(data),)),
    ]
    if channels > 3 or channels == 2:
        entries.append((338, 3, (extra,) * (channels - (3 if channels > 3 else 1))))
    entries.append((339, 3, (sample_format,) * channels))
    after = 8 + 2 + 12 * len(entries) + 4
    longer = b""
    packed = []
    for tag, kind, numbers in entries:
        value = b"".join(struct.pack("<H" if kind == 3 else "<I", number) for number in numbers)
        if len(value) > 4:
            place = after + len(longer)
            longer += value + b"\0" * (len(value) % 2)
            value = struct.pack("<I", place)
        packed.append((tag, kind, len(numbers), value.ljust(4, b"\0")))
    start = after + len(longer)
    packed = [
        (tag, kind, count, struct.pack("<I", start) if tag == 273 else value)
        for tag, kind, count, value in packed
    ]
    head = struct.pack("<2sHIH", b"II", 42, 8, len(packed))
    table = b"".join(struct.pack("<HHI4s", *entry) for entry in packed)
    return head + table + struct.pack("<I", 0) + longer + data


def png16(values: np.ndarray) -> bytes:
    """A PNG of 16 bits: gray [H, W], RGB [H, W, 3] or RGBA [H, W, 4] uint16."""
    color = 0 if values.ndim == 2 else {3: 2, 4: 6}[values.shape[2]]
    height, width = values.shape[:2]

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts
