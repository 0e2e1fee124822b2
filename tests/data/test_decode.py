"""Decoding equals PIL, and everything that is no image is one kind of error."""

import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from dino_jax.data.decode import REDUCTIONS, UnreadableImageError, decode_image, decode_still

RGB = np.random.default_rng(0).integers(0, 256, (12, 17, 3), np.uint8)
LIMIT = 10**6


def encode(image, image_format, **options):
    buffer = BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def _palette_with_transparency():
    return encode(Image.fromarray(RGB).quantize(8), "PNG", transparency=bytes(range(0, 256, 32)))


def _rotated_by_exif():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(Image.fromarray(RGB), "JPEG", exif=exif)


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize(
    "data",
    [
        encode(Image.fromarray(RGB), "JPEG"),
        encode(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
        encode(Image.fromarray(RGB).convert("L"), "JPEG"),
        encode(Image.fromarray(np.dstack([RGB, RGB[..., :1]])), "PNG"),
        encode(Image.fromarray(RGB), "GIF"),
        encode(Image.fromarray(RGB), "WEBP"),
        encode(Image.fromarray(RGB), "TIFF"),
        encode(Image.fromarray(RGB[:1, :1]), "PNG"),
        _palette_with_transparency(),
        _rotated_by_exif(),
    ],
    ids=["jpeg", "cmyk", "gray", "rgba", "gif", "webp", "tiff", "1x1", "palette", "exif"],
)
def test_every_kind_of_image_is_decoded_as_pil_converts_it(data):
    expected = np.asarray(Image.open(BytesIO(data)).convert("RGB"))
    decoded = decode_image(data, LIMIT)
    np.testing.assert_array_equal(decoded, expected)
    assert decoded.dtype == np.uint8
    assert decoded.flags.writeable


def test_exif_rotation_is_ignored_as_the_official_code_does():
    assert decode_image(_rotated_by_exif(), LIMIT).shape == RGB.shape


def test_lossless_pixels_come_back_unchanged():
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(RGB), "PNG"), LIMIT), RGB)


def _bomb():
    """A BMP header that claims 60,000 x 60,000 pixels."""
    header = struct.pack("<2sIHHI", b"BM", 54, 0, 0, 54)
    return header + struct.pack("<IiiHHIIiiII", 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"this is no picture", "cannot identify"),
        (encode(Image.fromarray(RGB), "JPEG")[:-30], "truncated"),
        (encode(Image.fromarray(RGB), "PNG")[:200], "truncated"),
        (encode(Image.fromarray(RGB), "JPEG")[:20], "Truncated|cannot identify"),
        (_bomb(), "Pillow's own bound, max_pixels cannot raise it"),
    ],
    ids=["empty", "text", "truncated jpeg", "truncated png", "header only", "bomb"],
)
def test_broken_data_is_one_error_that_says_why(data, reason):
    with pytest.raises(UnreadableImageError, match=reason):
        decode_image(data, LIMIT)


def test_images_over_the_limit_are_refused_before_their_pixels_are_read():
    header_only = encode(Image.fromarray(RGB), "PNG")[:60]
    with pytest.raises(UnreadableImageError, match="17 x 12 pixels are more than max_pixels=203"):
        decode_image(header_only, 203)


def test_an_image_of_exactly_the_limit_is_decoded():
    assert decode_image(encode(Image.fromarray(RGB), "PNG"), 204).shape == (12, 17, 3)


@pytest.mark.filterwarnings("ignore")  # Pillow warns about damaged tags
def test_randomly_damaged_files_never_raise_anything_else():
    rng = np.random.default_rng(0)
    decoded = 0
    for image_format in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        clean = np.frombuffer(encode(Image.fromarray(RGB), image_format), np.uint8)
        for _ in range(60):
            data = clean.copy()
            data[rng.integers(0, min(len(data), 300), 4)] = rng.integers(0, 256, 4)
            try:
                decode_image(data.tobytes(), LIMIT)
                decoded += 1
            except UnreadableImageError:
                pass
    assert 0 < decoded < 7 * 60


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}], ids=str)
def test_a_jpeg_is_reduced_as_pillows_draft_mode_does(reduction, options):
    small = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    image = Image.fromarray(small).resize((301, 203), Image.Resampling.BICUBIC)
    data = encode(image, "JPEG", **options)
    asked = []

    def reduce(height, width):
        asked.append((height, width))
        return reduction

    still = decode_still(data, LIMIT, reduce)
    with Image.open(BytesIO(data)) as draft:
        draft.draft("RGB", (301 // reduction, 203 // reduction))
        np.testing.assert_array_equal(still.pixels, np.asarray(draft))
    assert (still.size, still.reduction, asked) == ((203, 301), reduction, [(203, 301)])
    assert still.pixels.shape == (-(-203 // reduction), -(-301 // reduction), 3)


@pytest.mark.parametrize("image_format, mode", [("PNG", "RGB"), ("JPEG", "CMYK"), ("WEBP", "RGB")])
def test_other_images_stay_whole(image_format, mode):
    data = encode(Image.fromarray(RGB).convert(mode), image_format)
    still = decode_still(data, LIMIT, lambda height, width: 2)
    np.testing.assert_array_equal(still.pixels, decode_image(data, LIMIT))
    assert (still.size, still.reduction) == (RGB.shape[:2], 1)


def test_a_jpeg_that_is_not_to_be_reduced_is_the_whole_one():
    data = encode(Image.fromarray(RGB), "JPEG")
    still = decode_still(data, LIMIT, lambda height, width: 1)
    np.testing.assert_array_equal(still.pixels, decode_image(data, LIMIT))


def test_the_limit_is_that_of_the_whole_image():
    data = encode(Image.fromarray(RGB), "JPEG")
    with pytest.raises(UnreadableImageError, match="17 x 12 pixels"):
        decode_still(data, RGB[..., 0].size - 1, lambda height, width: 8)
