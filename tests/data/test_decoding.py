"""Images of any depth, sign and number of channels are read by rules, or say why they are not."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageOps

from dino_jax.data.decode import UnreadableImageError, decode_image, decode_still
from dino_jax.data.decoding import RGB, Decoding
from dino_jax.data.levels import parse_range
from tests.data.image_kinds import encode, npy, png16, tiff

LIMIT = 10**6
RNG = np.random.default_rng(3)
SHAPE = (6, 8)
DEEP = RNG.integers(0, 65536, SHAPE, np.uint16)
TWELVE = RNG.integers(0, 4096, SHAPE, np.uint16)
SIGNED = RNG.integers(-32768, 32768, SHAPE, np.int16)
LONG = RNG.integers(0, 2**32, SHAPE, np.uint32)
SIGNED_LONG = RNG.integers(-(2**31), 2**31, SHAPE, np.int32)
REAL = RNG.random(SHAPE, np.float32)
TINY = RNG.integers(-128, 128, SHAPE, np.int8)
COLOR = RNG.integers(0, 256, (*SHAPE, 3), np.uint8)


def spread(values, low, high):
    """Levels of the rule, in float64."""
    return np.clip(np.rint((values.astype(np.float64) - low) * (255 / (high - low))), 0, 255)


# bytes of a file, its numbers, and what the type can hold
FILES = {
    "png16": (png16(DEEP), DEEP, (0, 65535)),
    "png16 of pillow": (encode(Image.fromarray(DEEP), "PNG"), DEEP, (0, 65535)),
    "tiff16": (tiff(DEEP), DEEP, (0, 65535)),
    "tiff16 of pillow": (encode(Image.fromarray(DEEP), "TIFF"), DEEP, (0, 65535)),
    "tiff16, deflated": (
        encode(Image.fromarray(DEEP), "TIFF", compression="tiff_adobe_deflate"),
        DEEP,
        (0, 65535),
    ),
    "tiff16, white is zero": (tiff(DEEP, white_is_zero=True), 65535 - DEEP, (0, 65535)),
    "tiff of 12 bits": (tiff(TWELVE, bits=12), TWELVE, (0, 4095)),
    "tiff of int16": (tiff(SIGNED), SIGNED, (-32768, 32767)),
    "tiff of int8": (tiff(TINY), TINY, (-128, 127)),
    "tiff of uint32": (tiff(LONG), LONG, (0, 2**32 - 1)),
    "tiff of int32": (tiff(SIGNED_LONG), SIGNED_LONG, (-(2**31), 2**31 - 1)),
    "pgm of 16 bits": (b"P5 8 6 65535\n" + DEEP.astype(">u2").tobytes(), DEEP, (0, 65535)),
    "pgm to 4095": (b"P5 8 6 4095\n" + TWELVE.astype(">u2").tobytes(), TWELVE, (0, 4095)),
    "npy of uint16": (npy(DEEP), DEEP, (0, 65535)),
    "npy of int16, big-endian": (npy(SIGNED.astype(">i2")), SIGNED, (-32768, 32767)),
    "npy of int8": (npy(TINY), TINY, (-128, 127)),
    "npy of uint32": (npy(LONG), LONG, (0, 2**32 - 1)),
    "npy in Fortran's order": (npy(np.asfortranarray(DEEP)), DEEP, (0, 65535)),
}
FLOATS = {
    "tiff of float32": (tiff(REAL), REAL),
    "npy of float32": (npy(REAL), REAL),
    "npy of float16": (npy(REAL.astype(np.float16)), REAL.astype(np.float16)),
    "npy of float64": (npy(REAL.astype(np.float64)), REAL),
    "pfm": (b"Pf\n8 6\n-1.0\n" + REAL[::-1].astype("<f4").tobytes(), REAL),
}
every_file = pytest.mark.parametrize("name", [*FILES, *FLOATS])


@every_file
def test_more_than_eight_bits_are_never_read_without_being_asked_for(name):
    data = (FILES | FLOATS)[name][0]
    # Floats have no largest number that could be white.
    ways = "LOW,HIGH" if name in FLOATS else "full, LOW,HIGH"
    with pytest.raises(UnreadableImageError, match=f"8 bits would be a part; set range to {ways}"):
        decode_image(data, LIMIT)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_full_range_is_that_of_the_type(name, channels):
    data, values, ends = FILES[name]
    levels = decode_image(data, LIMIT, Decoding(channels, "full"))
    assert levels.shape == (*SHAPE, channels)
    assert levels.dtype == np.uint8
    expected = spread(values, *ends)
    for channel in range(channels):
        np.testing.assert_allclose(levels[..., channel], expected, atol=0)


@pytest.mark.parametrize("name", FLOATS)
def test_floats_have_no_full_range(name):
    with pytest.raises(UnreadableImageError, match="no full range; set range to LOW,HIGH"):
        decode_image(FLOATS[name][0], LIMIT, Decoding(1, "full"))


@every_file
def test_limits_that_hold_all_numbers_map_them_linearly(name):
    data, values = (FILES | FLOATS)[name][:2]
    low, high = float(values.min()), float(values.max())
    levels = decode_image(data, LIMIT, Decoding(1, f"{low!r},{high!r}"))
    expected = spread(values, low, high)[..., None]
    np.testing.assert_allclose(levels, expected, atol=1)  # float16 and float32 round
    assert (levels.min(), levels.max()) == (0, 255)


@every_file
def test_numbers_outside_of_the_limits_are_an_error_or_clipped(name):
    data, values = (FILES | FLOATS)[name][:2]
    low, high = np.percentile(values.astype(np.float64), (20, 80)).tolist()
    decoding = Decoding(1, f"{low!r},{high!r}")
    with pytest.raises(UnreadableImageError, match=r"lie outside of range=.*set clip"):
        decode_image(data, LIMIT, decoding)
    levels = decode_image(data, LIMIT, replace(decoding, clip=True))
    np.testing.assert_allclose(levels, spread(values, low, high)[..., None], atol=1)


@every_file
def test_percentiles_are_those_of_the_image(name):
    data, values = (FILES | FLOATS)[name][:2]
    low, high = np.percentile(values, (10, 90))
    levels = decode_image(data, LIMIT, Decoding(1, "10%,90%"))
    np.testing.assert_allclose(levels, spread(values, low, high)[..., None], atol=1)


def test_percentiles_are_taken_of_every_channel_and_a_flat_one_is_black():
    values = np.dstack([DEEP, TWELVE, np.full(SHAPE, 7, np.uint16)])
    levels = decode_image(npy(values), LIMIT, Decoding(3, "0%,100%"))
    for channel in range(2):
        plane = values[..., channel]
        np.testing.assert_allclose(
            levels[..., channel], spread(plane, plane.min(), plane.max()), atol=1
        )
    assert not levels[..., 2].any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("text", ["0,1", "1%,99%"])
def test_numbers_that_are_not_finite_are_named(value, text):
    values = REAL.copy()
    values[2, 3] = value
    for data in (npy(values), tiff(values)):
        with pytest.raises(UnreadableImageError, match="not finite"):
            decode_image(data, LIMIT, Decoding(1, text))


DEEP_COLOR = RNG.integers(0, 65536, (*SHAPE, 3), np.uint16)


@pytest.mark.parametrize("data", [png16(DEEP_COLOR), tiff(DEEP_COLOR)], ids=["png", "tiff"])
def test_of_deep_color_pillow_gives_the_upper_bits_which_only_the_full_range_takes(data):
    for text, reason in (("byte", "set range"), ("0,4095", "upper 8 bits"), ("1%,99%", ".npy")):
        with pytest.raises(UnreadableImageError, match=reason):
            decode_image(data, LIMIT, Decoding(3, text))
    np.testing.assert_array_equal(decode_image(data, LIMIT, Decoding(3, "full")), DEEP_COLOR >> 8)


@pytest.mark.parametrize("text", ["byte", "full"])
@pytest.mark.parametrize("values", [COLOR, COLOR[..., :1], COLOR[..., 0]], ids=["3", "1", "gray"])
def test_npy_files_of_bytes_are_images(values, text):
    levels = decode_image(npy(values), LIMIT, Decoding(3, text))
    expected = values if values.ndim == 3 else values[..., None]
    np.testing.assert_array_equal(levels, np.broadcast_to(expected, (*SHAPE, 3)))
    levels[0] = 0  # its own memory


def test_black_and_white_are_the_ends_of_the_levels():
    values = REAL > 0.5
    for data in (npy(values), encode(Image.fromarray(values), "PNG")):
        levels = decode_image(data, LIMIT, Decoding(1))
        np.testing.assert_array_equal(levels[..., 0], 255 * values)


@pytest.mark.parametrize("channels", [2, 4, 5, 13])
def test_an_npy_file_may_have_any_channels_first_or_last(channels):
    values = RNG.integers(0, 256, (*SHAPE, channels), np.uint8)
    decoding = Decoding(channels)
    np.testing.assert_array_equal(decode_image(npy(values), LIMIT, decoding), values)
    first = np.ascontiguousarray(np.moveaxis(values, 2, 0))
    np.testing.assert_array_equal(decode_image(npy(first), LIMIT, decoding), values)
    for wanted in {1, 2, 3, 4} - {channels}:
        with pytest.raises(UnreadableImageError, match=f"{channels} channels where {wanted} are"):
            decode_image(npy(values), LIMIT, Decoding(wanted))


def test_pages_of_a_tiff_are_channels_where_their_numbers_agree():
    planes = RNG.integers(0, 65536, (5, *SHAPE), np.uint16)
    pages = [Image.fromarray(plane) for plane in planes]
    data = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    levels = decode_image(data, LIMIT, Decoding(5, "full"))
    np.testing.assert_array_equal(levels, np.moveaxis(spread(planes, 0, 65535), 0, 2))
    for wanted in (4, 6):
        with pytest.raises(UnreadableImageError, match=f"1 channels where {wanted}"):
            decode_image(data, LIMIT, Decoding(wanted, "full"))


def test_opacity_is_kept_where_there_is_room_and_dropped_for_color():
    rgba = RNG.integers(0, 256, (*SHAPE, 4), np.uint8)
    gray = rgba[..., 2:]
    for image_format in ("PNG", "TIFF"):
        data = encode(Image.fromarray(rgba), image_format)
        np.testing.assert_array_equal(decode_image(data, LIMIT, Decoding(4)), rgba)
        np.testing.assert_array_equal(decode_image(data, LIMIT), rgba[..., :3])
    data = encode(Image.fromarray(gray, "LA"), "PNG")
    np.testing.assert_array_equal(decode_image(data, LIMIT, Decoding(2)), gray)
    np.testing.assert_array_equal(decode_image(data, LIMIT, Decoding(1)), gray[..., :1])
    with pytest.raises(UnreadableImageError, match="2 channels where 4 are expected"):
        decode_image(data, LIMIT, Decoding(4))


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "BMP"])
def test_color_is_not_made_gray_without_a_word(image_format):
    data = encode(Image.fromarray(COLOR), image_format)
    with pytest.raises(UnreadableImageError, match="3 channels where 1 are expected"):
        decode_image(data, LIMIT, Decoding(1))


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "BMP", "TIFF"])
def test_gray_is_one_channel_and_three_equal_ones_are_gray(image_format):
    gray = Image.fromarray(COLOR[..., 0])
    data = encode(gray, image_format)
    expected = np.asarray(Image.open(BytesIO(data)))[..., None]
    np.testing.assert_array_equal(decode_image(data, LIMIT, Decoding(1)), expected)
    data = encode(gray.convert("RGB"), "PNG")
    np.testing.assert_array_equal(decode_image(data, LIMIT, Decoding(1))[..., 0], COLOR[..., 0])


def test_channels_of_a_tiff_that_pillow_drops_are_named():
    values = RNG.integers(0, 256, (*SHAPE, 4), np.uint8)
    for wanted in (3, 4):
        with pytest.raises(UnreadableImageError, match=r"Pillow reads 3 of the 4 channels.*npy"):
            decode_image(tiff(values), LIMIT, Decoding(wanted))


def test_a_tiff_that_pillow_does_not_know_says_what_to_do():
    values = RNG.integers(0, 65536, (*SHAPE, 2), np.uint16)
    with pytest.raises(UnreadableImageError, match=r"Pillow does not read.*\.npy"):
        decode_image(tiff(values), LIMIT, Decoding(2, "full"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (npy(np.zeros((4, 4), complex)), "holds numbers, this one complex128"),
        (npy(np.array([["a"]])), "holds numbers"),
        (npy(np.zeros(4, np.uint8)), "shape"),
        (npy(np.zeros((1, 4, 4, 3), np.uint8)), "shape"),
        (npy(np.zeros((0, 4), np.uint8)), "shape"),
        (npy(COLOR)[:-1], "bytes are not an array"),
        (npy(COLOR) + b"\0", "bytes are not an array"),
        (b"\x93NUMPY\x01\0\xff\xff" + b"(" * 65535, "header"),
        (b"\x93NUMPY\x03\0\x10\0\0\0" + b" " * 16, "header"),
        (npy(np.zeros((2000, 2000), np.uint8)), "2000 x 2000 pixels are more than max_pixels"),
    ],
    ids=["complex", "text", "1-d", "4-d", "empty", "short", "long", "deep", "version 3", "large"],
)
def test_an_npy_file_that_is_no_image_says_why(data, reason):
    with pytest.raises(UnreadableImageError, match=reason):
        decode_image(data, LIMIT)


def test_objects_in_an_npy_file_are_not_unpickled():
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("it was unpickled",)

    buffer = BytesIO()
    np.save(buffer, np.array([[Trap()]], object), allow_pickle=True)
    with pytest.raises(UnreadableImageError, match="holds numbers"):
        decode_image(buffer.getvalue(), LIMIT)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("bytes", "expected byte, full"),
        ("0,", "expected"),
        ("1.2.3,4", "expected"),
        ("5,5", "lower one"),
        ("9,1", "lower one"),
        ("99%,1%", "lower one"),
        ("0%,101%", "0 to 100"),
    ],
)
def test_a_wrong_range_is_one_line(text, reason):
    with pytest.raises(ValueError, match=f"config.data.range is '{text}'.*{reason}"):
        parse_range("config.data.range", text, clip=False)


def test_only_limits_can_be_clipped():
    for text in ("byte", "full", "1%,99%"):
        with pytest.raises(ValueError, match="only numbers outside of LOW,HIGH"):
            parse_range("config.data.range", text, clip=True)


def _oriented(orientation, image_format, mode="RGB"):
    small = Image.fromarray(COLOR).convert(mode)
    image = small.resize((24, 16), Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image, image_format, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_orientation_of_exif_is_applied_where_it_is_asked_for(orientation, image_format, mode):
    data = _oriented(orientation, image_format, mode)
    upright = ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB")
    applied = Decoding(orientation="apply")
    np.testing.assert_array_equal(decode_image(data, LIMIT, applied), upright)
    ignored = Image.open(BytesIO(data)).convert("RGB")  # Pillow turns a TIFF in any case
    np.testing.assert_array_equal(decode_image(data, LIMIT, RGB), ignored)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_images_are_turned_as_well(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(DEEP), "PNG", exif=exif)
    turned = ImageOps.exif_transpose(Image.open(BytesIO(data)))
    levels = decode_image(data, LIMIT, Decoding(1, "full", orientation="apply"))
    np.testing.assert_array_equal(levels[..., 0], spread(np.asarray(turned), 0, 65535))


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_reduced_jpeg_has_the_size_of_the_upright_image(orientation):
    small = Image.fromarray(COLOR).resize((301, 203), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(small, "JPEG", exif=exif)
    asked = []

    def reduce(height, width):
        asked.append((height, width))
        return 2

    still = decode_still(data, LIMIT, reduce, Decoding(orientation="apply"))
    size = (301, 203) if orientation == 6 else (203, 301)
    assert (still.size, asked, still.reduction) == (size, [size], 2)
    assert still.pixels.shape == (-(-size[0] // 2), -(-size[1] // 2), 3)


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\xff" * 40])
def test_damaged_exif_says_nothing_about_the_orientation(exif):
    data = encode(Image.fromarray(COLOR), "JPEG", exif=exif)
    applied = decode_image(data, LIMIT, Decoding(orientation="apply"))
    np.testing.assert_array_equal(applied, decode_image(data, LIMIT))


def test_an_image_beyond_the_bound_of_pillow_says_what_max_pixels_cannot_do(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(UnreadableImageError, match=r"48 pixels.*max_pixels cannot raise it: cut"):
        decode_image(encode(Image.fromarray(COLOR), "TIFF"), LIMIT)
