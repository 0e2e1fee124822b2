"""Pictures inside the page: small, and as data URIs."""

import base64
import io
from collections.abc import Sequence

from etils import epath
from PIL import Image

from dino_jax.foreign.files import read_bytes
from dino_jax.foreign.pictures import UnreadableImageError, opened_picture
from dino_jax.report.markup import Markup, element

QUALITY, LONGEST = 82, 16_000  # of WebP, whose sides have at most 16,383 pixels
MAX_BYTES, MAX_PIXELS = 1 << 28, 60_000_000  # of a picture in a workdir


def open_picture(path: epath.Path) -> Image.Image | None:
    """Reads a picture; None if it is missing, damaged or still being written."""
    try:
        with opened_picture(read_bytes(path, MAX_BYTES), MAX_PIXELS) as picture:
            return picture.convert("RGB")
    except (OSError, UnreadableImageError):
        return None


def resize(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Smaller pictures keep sharp pixels, larger ones are averaged; sides from 1 to `LONGEST`."""
    width, height = (min(max(side, 1), LONGEST) for side in (width, height))
    larger = width >= picture.width
    kind = Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS
    return picture.resize((width, height), kind)


def stack(pictures: Sequence[Image.Image]) -> Image.Image:
    """Stacks pictures of one size vertically."""
    width, height = pictures[0].size
    film = Image.new("RGB", (width, height * len(pictures)))
    for place, picture in enumerate(pictures):
        film.paste(picture, (0, place * height))
    return film


def draw_picture(picture: Image.Image, alt: str, **attributes: object) -> Markup:
    """An `img` element that holds the picture itself.

    Args:
      picture: picture in the size that it is stored in.
      alt: description for readers who do not see it.
      attributes: attributes of the element.
    """
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=QUALITY, method=4)
    text = base64.b64encode(buffer.getvalue()).decode()
    size = dict(width=picture.width, height=picture.height)
    return element("img", src=f"data:image/webp;base64,{text}", alt=alt, **size, **attributes)
