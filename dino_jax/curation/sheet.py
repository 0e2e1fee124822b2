"""Contact sheets: nine images of each of some groups."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from dino_jax.config.range import MAX_PIXELS
from dino_jax.curation.pool import Pool
from dino_jax.curation.work import Work
from dino_jax.data.decode import UnreadableImageError
from dino_jax.data.reading import read_image
from dino_jax.data.sources import ImageSource
from dino_jax.visualize.pictures import caption, enlarge_whole, photograph, tile_rows
from dino_jax.workdir.paths import written_whole

SIDE = 3  # images of a group in a line, and lines
CELL = 96  # pixels of an image
GROUPS_PER_LINE = 3


def write_sheet(
    work: Work, pool: Pool, source: ImageSource, groups: Sequence[tuple[str, np.ndarray]]
) -> None:
    """Writes sheet.png.

    Args:
      work: folder of the step.
      pool: the rows.
      source: their images.
      groups: a line of text and rows for each group.
    """
    indices = pool.indices(source)
    blocks = [
        caption(_block([_cell(source, int(indices[row])) for row in rows[: SIDE * SIDE]]), text)
        for text, rows in groups
    ]
    starts = range(0, len(blocks), GROUPS_PER_LINE)
    sheet = tile_rows([blocks[start : start + GROUPS_PER_LINE] for start in starts])
    with written_whole(work.path("sheet.png")) as path:
        Image.fromarray(sheet).save(path, "PNG")


def _block(cells: Sequence[np.ndarray]) -> np.ndarray:
    """Up to nine cells as a square."""
    full = [*cells, *[np.full((CELL, CELL, 3), 24, np.uint8)] * (SIDE * SIDE - len(cells))]
    return tile_rows([full[start : start + SIDE] for start in range(0, len(full), SIDE)])


def _cell(source: ImageSource, index: int) -> np.ndarray:
    """[CELL, CELL, 3] uint8, the middle of an image; gray if it can't be read."""
    try:
        pixels, _, _ = read_image(source, index, MAX_PIXELS)
    except UnreadableImageError:
        return np.full((CELL, CELL, 3), 96, np.uint8)
    shown = photograph(enlarge_whole(pixels))
    side = min(shown.shape[:2])
    top, left = ((length - side) // 2 for length in shown.shape[:2])
    square = shown[top : top + side, left : left + side]
    return np.asarray(Image.fromarray(square).resize((CELL, CELL), Image.Resampling.BILINEAR))
