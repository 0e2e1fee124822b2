"""Images with their crops as one picture."""

import colorsys
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dino_jax.data.augment import CropParameters
from dino_jax.data.viewable import as_rgb

BACKGROUND, TEXT, FAINT = (22, 24, 29), (235, 237, 240), (150, 156, 166)
MARGIN, GAP, ROW_GAP, FRAME = 24, 12, 18, 3  # pixels
CAPTION = 18  # pixels of the line below a picture
CODES_AFTER = 20  # pixels from the left of a caption
TITLE_SIZE, TEXT_SIZE = 20, 12
SMALLEST_ROW = 192  # pixels; smaller crops are shown enlarged by a whole factor
WIDEST_ORIGINAL = 1.5  # width / height of the room for the original
LEGEND = "F flip   J color jitter   G grayscale   B blur with its radius   S solarize"


@dataclass(frozen=True)
class View:
    """One crop: its group, how it was made, and its [h, w, C] uint8 pixels."""

    group: str
    parameters: CropParameters
    pixels: np.ndarray


@dataclass(frozen=True)
class Row:
    """One image, [H, W, C] uint8, with its name and its crops, group by group."""

    image: np.ndarray
    name: str
    views: Sequence[View]


@dataclass(frozen=True)
class _Place:
    """Position of a view in its row, in pixels; without frame and caption."""

    left: int
    top: int
    width: int
    height: int


def draw_sheet(rows: Sequence[Row], title: str, subtitle: str) -> Image.Image:
    """Draws one row per image: the original with the boxes of its crops, then the crops.

    Args:
      rows: at least one; the crops of all rows have the same sizes.
      title: the headline.
      subtitle: text after the headline, fainter.
    """
    zoom = _zoom(rows[0].views)
    original = _original_room(rows, zoom)
    places, width, height = _arrange(rows[0].views, zoom, left=original.width + 3 * GAP)
    top = MARGIN + 3 * CAPTION
    sheet = Image.new(
        "RGB",
        (width + 2 * MARGIN, top + len(rows) * (height + ROW_GAP) + MARGIN - ROW_GAP),
        BACKGROUND,
    )
    draw = ImageDraw.Draw(sheet)
    _draw_head(draw, title, subtitle, zoom)
    for line, row in enumerate(rows):
        corner = (MARGIN, top + line * (height + ROW_GAP))
        colors = _colors(row.views)
        _paste_original(sheet, corner, original, row, colors)
        for number, view in enumerate(row.views):
            _paste_view(sheet, corner, places[number], number + 1, view, colors[number])
    return sheet


def _tallest(views: Sequence[View]) -> int:
    return max(view.pixels.shape[0] for view in views)


def _zoom(views: Sequence[View]) -> int:
    """The whole factor by which all crops are enlarged."""
    return max(1, math.ceil(SMALLEST_ROW / _tallest(views)))


def _original_room(rows: Sequence[Row], zoom: int) -> _Place:
    """Size of the originals: the height of the tallest crop and the widest width, within limits."""
    height = zoom * _tallest(rows[0].views)
    widest = max(row.image.shape[1] / row.image.shape[0] for row in rows)
    return _Place(0, 0, round(min(max(widest, 1.0), WIDEST_ORIGINAL) * height), height)


def _arrange(views: Sequence[View], zoom: int, left: int) -> tuple[list[_Place], int, int]:
    """The groups side by side, each in the number of lines that matches the tallest crop.

    Returns:
      The place of each view, and width and height of the row.
    """
    places: list[_Place] = []
    room = zoom * _tallest(views) + CAPTION + GAP
    for _, group in itertools.groupby(views, key=lambda view: view.group):
        members = list(group)
        height, width = (zoom * side for side in members[0].pixels.shape[:2])
        outer_height, outer_width = height + 2 * FRAME + CAPTION, width + 2 * FRAME + GAP
        columns = math.ceil(len(members) / max(1, room // outer_height))
        for number in range(len(members)):
            line, column = divmod(number, columns)
            places.append(_Place(left + column * outer_width, line * outer_height, width, height))
        left += columns * outer_width + GAP
    width = max(place.left + place.width for place in places) + 2 * FRAME
    row_height = max(place.top + place.height for place in places) + 2 * FRAME + CAPTION
    return places, width, row_height


def _colors(views: Sequence[View]) -> list[tuple[int, int, int]]:
    """Evenly spread hues within a group, strong for the first group and paler for the others."""
    colors = []
    for name, group in itertools.groupby(views, key=lambda view: view.group):
        count = len(list(group))
        saturation = 0.9 if name == views[0].group else 0.45
        for number in range(count):
            rgb = colorsys.hsv_to_rgb((0.09 + number / count) % 1.0, saturation, 1.0)
            red, green, blue = (round(255 * part) for part in rgb)
            colors.append((red, green, blue))
    return colors


def _draw_head(draw: ImageDraw.ImageDraw, title: str, subtitle: str, zoom: int) -> None:
    large, small = ImageFont.load_default(TITLE_SIZE), ImageFont.load_default(TEXT_SIZE)
    draw.text((MARGIN, MARGIN - 6), title, TEXT, large)
    after = MARGIN + draw.textlength(title, large) + GAP
    enlarged = f"   crops enlarged {zoom} times" if zoom > 1 else ""
    draw.text((after, MARGIN), subtitle + enlarged, FAINT, small)
    draw.text((MARGIN, MARGIN + 24), LEGEND, FAINT, small)


def _paste_original(
    sheet: Image.Image,
    corner: tuple[int, int],
    room: _Place,
    row: Row,
    colors: Sequence[tuple[int, int, int]],
) -> None:
    height, width = row.image.shape[:2]
    scale = min(room.width / width, room.height / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = Image.fromarray(as_rgb(row.image)).resize(
        size, Image.Resampling.LANCZOS, reducing_gap=2.0
    )
    draw = ImageDraw.Draw(picture)
    boxes = [_scale_box(view.parameters.box, scale) for view in row.views]
    for view, box, color in zip(row.views, boxes, colors, strict=True):
        draw.rectangle(box, outline=color, width=3 if view.group == row.views[0].group else 2)
    for number, (box, color) in enumerate(zip(boxes, colors, strict=True), start=1):
        _draw_tag(draw, box[:2], str(number), color)
    sheet.paste(picture, (corner[0], corner[1] + FRAME))
    name = _shorten(row.name, room.width - 90)
    text = f"{name}   {width} x {height}"
    font = ImageFont.load_default(TEXT_SIZE)
    ImageDraw.Draw(sheet).text((corner[0], corner[1] + FRAME + size[1] + 4), text, FAINT, font)


def _scale_box(box: tuple[int, int, int, int], scale: float) -> tuple[int, int, int, int]:
    """Left, top, right and bottom pixel of a box in the picture, all of them inside the box."""
    left, top, right, bottom = (round(edge * scale) for edge in box)
    return left, top, max(left, right - 1), max(top, bottom - 1)


def _paste_view(
    sheet: Image.Image,
    corner: tuple[int, int],
    place: _Place,
    number: int,
    view: View,
    color: tuple[int, int, int],
) -> None:
    left, top = corner[0] + place.left, corner[1] + place.top
    draw = ImageDraw.Draw(sheet)
    outer = (left, top, left + place.width + 2 * FRAME - 1, top + place.height + 2 * FRAME - 1)
    draw.rectangle(outer, fill=color)
    picture = Image.fromarray(as_rgb(view.pixels))
    if picture.size != (place.width, place.height):
        picture = picture.resize((place.width, place.height), Image.Resampling.NEAREST)
    sheet.paste(picture, (left + FRAME, top + FRAME))
    font = ImageFont.load_default(TEXT_SIZE)
    draw.text((left, outer[3] + 3), str(number), color, font)
    codes = " ".join(_codes(view.parameters))
    draw.text((left + CODES_AFTER, outer[3] + 3), codes, FAINT, font)


def _codes(parameters: CropParameters) -> Iterator[str]:
    if parameters.flip:
        yield "F"
    if parameters.jitter:
        yield "J"
    if parameters.grayscale:
        yield "G"
    if parameters.blur_radius is not None:
        yield f"B{parameters.blur_radius:.1f}"
    if parameters.solarize:
        yield "S"


def _draw_tag(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, color: tuple[int, int, int]
) -> None:
    """A number in the upper left corner of a box."""
    font = ImageFont.load_default(TEXT_SIZE)
    width = round(draw.textlength(text, font)) + 6
    left, top = corner
    draw.rectangle((left, top, left + width, top + TEXT_SIZE + 2), fill=color)
    draw.text((left + 3, top), text, BACKGROUND, font)


def _shorten(name: str, width: int) -> str:
    """The end of a name that fits into `width` pixels."""
    font = ImageFont.load_default(TEXT_SIZE)
    name = name.encode(errors="replace").decode()
    short = name
    while font.getlength(short) > width and len(short) > 2:
        short = "…" + short[2:]
    return short
