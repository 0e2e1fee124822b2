"""The numbers that an image file stores, of any depth and sign, and what their type can hold.

Pillow gives eight bits of what has more in color, gives some signed numbers as unsigned ones, and
drops channels that it has no name for. What it does not give is named here, and never guessed.
"""

import math
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image

from dino_jax.foreign.pictures import UnreadableImageError, opened_picture

NPY = b"\x93NUMPY"
MAX_HEADER = 10_000  # bytes of the header of an .npy file, as numpy.load has it
_KINDS = "biuf"  # bool, signed, unsigned, float
_SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N")
# What other modes of Pillow are converted to.
_AS_COLOR = ("RGBX", "YCbCr", "HSV", "CMYK", "LAB")
_PLAIN = {"1": "L", "La": "LA", "RGBa": "RGBA"} | dict.fromkeys(_AS_COLOR, "RGB")
_WITH_ALPHA = ("LA", "RGBA")
_BITS, _PHOTOMETRIC, _SAMPLES, _SAMPLE_FORMAT = 258, 262, 277, 339  # tags of TIFF 6.0
_WHITE_IS_ZERO, _SIGNED = 0, 2
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_DEPTH = 24  # byte of a PNG that says how many bits a channel has


class Numbers(NamedTuple):
    """The numbers of an image.

    Attributes:
      values: [H, W, C] bool, integer or float.
      ends: the smallest and the largest number that its type can hold; None for floats.
      kind: the type in words, such as "uint16".
      complete: whether these are all bits of the file; if not, the upper 8 of each number.
      alpha: whether the last channel is opacity.
    """

    values: np.ndarray
    ends: tuple[int, int] | None
    kind: str
    complete: bool = True
    alpha: bool = False

    @property
    def is_bytes(self) -> bool:
        """Whether they are levels from 0 to 255, or black and white."""
        return self.complete and self.values.dtype in (np.uint8, np.bool_)


def read_numbers(data: bytes, max_pixels: int, channels: int, upright: bool = False) -> Numbers:
    """Reads the numbers of an image file: one in `pictures.FORMATS`, or .npy.

    The pages of a TIFF are its channels if they are gray and as many as `channels`; else the first
    one is read.

    Args:
      data: the bytes of the file.
      max_pixels: largest height * width.
      channels: channels that the image should have; it may have others.
      upright: whether to turn it as its EXIF data say. Pillow turns a TIFF in any case.

    Raises:
      UnreadableImageError: if it is no complete image, too large, or of a kind of which only a
        part can be read.
    """
    if data.startswith(NPY):
        return read_npy(data, max_pixels, channels)
    try:
        with opened_picture(data, max_pixels) as image:
            found = numbers_of_picture(image, data, channels)
            if not upright:
                return found
            return found._replace(values=turn_upright(found.values, orientation_of(image)))
    except UnreadableImageError as error:
        if data[:4] in _TIFF and "cannot identify" in str(error):
            raise UnreadableImageError(
                "a TIFF of a kind that Pillow does not read, such as 2 channels, or 3 of more than "
                "16 bits; save it as an .npy file [H, W, C]"
            ) from error
        raise


def numbers_of_array(values: np.ndarray) -> Numbers:
    """The numbers of [H, W, C] that need no decoding."""
    kind = values.dtype.name
    if values.dtype == np.bool_:
        return Numbers(values.astype(np.uint8) * np.uint8(255), (0, 255), kind)
    if values.dtype.kind == "f":
        return Numbers(values, None, kind)
    info = np.iinfo(values.dtype)
    return Numbers(values, (int(info.min), int(info.max)), kind)


def read_npy(data: bytes, max_pixels: int, channels: int) -> Numbers:
    """Reads an array in NumPy's format as an image; nothing in it is executed.

    Args:
      data: bytes of the file: [H, W], [H, W, C], or [C, H, W] where only the first axis has
        `channels` entries.
      max_pixels: largest height * width.
      channels: channels that the image should have.

    Raises:
      UnreadableImageError: if it is something else.
    """
    stream = BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read: Any = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran_order, dtype = read(stream, max_header_size=MAX_HEADER)
    except Exception as error:  # of a header: ValueError, KeyError, SyntaxError, MemoryError, …
        raise UnreadableImageError(f"its header is not that of an .npy file: {error!r}") from error
    if dtype.kind not in _KINDS or dtype.itemsize > 8 or dtype.hasobject:
        raise UnreadableImageError(f"an .npy image holds numbers, this one {dtype}")
    if len(shape) not in (2, 3) or not all(0 < side < 1 << 31 for side in shape):
        raise UnreadableImageError(
            f"an .npy image has the shape [H, W] or [H, W, C], this one {shape}"
        )
    start, count = stream.tell(), math.prod(shape)
    if len(data) - start != count * dtype.itemsize:
        raise UnreadableImageError(
            f"{len(data) - start} bytes are not an array of {shape} {dtype} numbers"
        )
    values = np.frombuffer(data, dtype, count, start)
    values = values.reshape(shape, order="F" if fortran_order else "C")
    if values.ndim == 2:
        values = values[..., None]
    elif channels in shape[:1] and channels not in shape[2:]:
        values = np.moveaxis(values, 0, 2)
    require_pixels(values.shape[1], values.shape[0], max_pixels)
    return numbers_of_array(np.array(values, dtype.newbyteorder("="), order="C"))


def orientation_of(image: Image.Image) -> int:
    """The tag 0x0112 of EXIF of an open picture, 1 if it has none."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises errors of many kinds for a damaged block, which says nothing
        return 1


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns [H, W, C] as the tag 0x0112 of EXIF says (CIPA DC-008, 4.6.5), 1 to 8; others: not."""
    return np.ascontiguousarray(_TURNS.get(orientation, lambda x: x)(pixels))


def require_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raises an UnreadableImageError that names the limit if an image is larger."""
    if width * height > max_pixels:
        raise UnreadableImageError(
            f"{width} x {height} pixels are more than max_pixels={max_pixels}"
        )


def numbers_of_picture(image: Image.Image, data: bytes, channels: int) -> Numbers:
    """The numbers of an open picture.

    Args:
      image: from `opened_picture`.
      data: the bytes of its file.
      channels: see `read_numbers`; for three, 8 bits are converted to RGB, whatever they are.
    """
    found = _FORMATS.get(image.format or "", _of_bytes)(image, data, channels)
    if image.format == "TIFF" and channels > 1 and len(image.getbands()) == 1:
        pages = _read_pages(image, data, channels, found)
        if pages is not None:
            return found._replace(values=np.concatenate(pages, axis=2))
    return found


def _of_bytes(image: Image.Image, data: bytes, channels: int) -> Numbers:
    """A picture of 8 bits or less per channel."""
    mode = "RGB" if channels == 3 else _PLAIN.get(image.mode, image.mode)
    if mode in ("P", "PA"):
        mode = "RGBA" if mode == "PA" or "transparency" in image.info else "RGB"
    values = np.array(image if mode == image.mode else image.convert(mode))
    values = values[..., None] if values.ndim == 2 else values
    return Numbers(values, (0, 255), "uint8", alpha=mode in _WITH_ALPHA)


def _upper_bits(image: Image.Image, data: bytes, channels: int) -> Numbers:
    found = _of_bytes(image, data, channels)
    return found._replace(kind="uint16 in color", complete=False)


def _of_png(image: Image.Image, data: bytes, channels: int) -> Numbers:
    if image.mode in (*_SIXTEEN, "I"):
        return _unsigned(image, 16)
    is_deep = data[_PNG_DEPTH : _PNG_DEPTH + 1] == b"\x10"
    return (_upper_bits if is_deep else _of_bytes)(image, data, channels)


def _of_ppm(image: Image.Image, data: bytes, channels: int) -> Numbers:
    """Of a largest number above 255, Pillow scales gray to 65,535 and color to 255."""
    if image.mode == "F":
        return numbers_of_array(np.array(image)[..., None])
    tiles: Any = image.tile  # pyright: ignore[reportAttributeAccessIssue]
    arguments = tiles[0].args if tiles else None
    largest = arguments[1] if isinstance(arguments, tuple) and len(arguments) == 2 else 0
    if image.mode == "I":
        largest = int(largest) or 65535
        values = np.rint(np.array(image, np.float64)[..., None] * (largest / 65535))
        return Numbers(values.astype(np.uint16), (0, largest), "uint16")
    return (_upper_bits if int(largest) > 255 else _of_bytes)(image, data, channels)


def _of_tiff(image: Image.Image, data: bytes, channels: int) -> Numbers:
    tags: Any = image.tag_v2  # pyright: ignore[reportAttributeAccessIssue]
    bits, sign = _most(tags.get(_BITS, 1)), _most(tags.get(_SAMPLE_FORMAT, 1))
    samples, white_is_zero = _most(tags.get(_SAMPLES, 1)), tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    if image.mode in _SIXTEEN:
        found = _unsigned(image, bits)
    elif image.mode == "I":
        values = np.array(image)[..., None]
        kind = np.dtype(f"{'int' if sign == _SIGNED else 'uint'}{16 if bits == 16 else 32}")
        found = numbers_of_array(values.astype(kind) if bits == 16 else values.view(kind))
    elif image.mode == "F":
        return numbers_of_array(np.array(image)[..., None])
    elif sign == _SIGNED and image.mode == "L":
        return numbers_of_array(np.array(image)[..., None].view(np.int8))
    else:
        found = (_upper_bits if bits > 8 else _of_bytes)(image, data, channels)
        white_is_zero = False  # Pillow has turned it
    bands = len(image.getbands())
    if samples > bands:
        raise UnreadableImageError(
            f"Pillow reads {bands} of the {samples} channels of this TIFF; save it "
            "as an .npy file [H, W, C], and set channels"
        )
    if white_is_zero and found.ends is not None:
        low, high = found.ends
        turned = (high + low) - found.values.astype(np.int64)
        return found._replace(values=turned.astype(found.values.dtype))
    return found


def _most(tag: Any) -> int:
    """The largest entry of a tag, which is a number or several."""
    return int(max(tag)) if isinstance(tag, tuple) else int(tag)


def _unsigned(image: Image.Image, bits: int) -> Numbers:
    kind = "uint16" if bits == 16 else f"unsigned of {bits} bits"
    return Numbers(np.array(image).astype(np.uint16)[..., None], (0, (1 << bits) - 1), kind)


def _read_pages(
    image: Image.Image, data: bytes, channels: int, first: Numbers
) -> list[np.ndarray] | None:
    """[H, W, 1] of every page of a TIFF, if it has as many as there are channels."""
    pages = [first.values[..., :1]]
    try:
        for page in range(1, channels):
            image.seek(page)
            if image.size != first.values.shape[1::-1]:
                return None
            found = _of_tiff(image, data, channels)
            if found.values.shape != first.values.shape or found.kind != first.kind:
                return None
            pages.append(found.values[..., :1])
    except EOFError:
        return None
    try:
        image.seek(channels)
    except EOFError:
        return pages
    return None


_TURNS = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x[::-1].swapaxes(0, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x[:, ::-1].swapaxes(0, 1),
}
SIDEWAYS = (5, 6, 7, 8)  # orientations that swap height and width
_FORMATS = {"PNG": _of_png, "PPM": _of_ppm, "TIFF": _of_tiff}
