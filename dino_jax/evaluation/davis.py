"""The DAVIS 2017 data set (arXiv:1704.00675), in its published layout.

FOLDER/ImageSets/2017/val.txt, FOLDER/JPEGImages/480p/VIDEO/00000.jpg and
FOLDER/Annotations/480p/VIDEO/00000.png.
"""

from typing import NamedTuple

import numpy as np
from etils import epath
from PIL import Image

from dino_jax.evaluation.image_files import read_values
from dino_jax.foreign.files import read_text

RESOLUTION = "480p"
VOID = 255  # in a mask: pixels that do not count
FEWEST_FRAMES = 3  # the first is given, the last does not count


class Video(NamedTuple):
    """Frames of one video and the mask of each, in order."""

    name: str
    frames: list[str]
    masks: list[str]


def list_videos(folder: str, split: str = "val") -> list[Video]:
    """Lists the videos of a split.

    Args:
      folder: local or gs://.
      split: name of a list in ImageSets/2017.

    Raises:
      OSError: if the list or a video is missing.
      ValueError: if a video does not have a mask for every frame.
    """
    root = epath.Path(folder).expanduser()
    listing = root / "ImageSets" / "2017" / f"{split}.txt"
    if not listing.exists():
        raise FileNotFoundError(
            f"{listing} does not exist; --data=FOLDER is the folder DAVIS with ImageSets/2017, "
            f"JPEGImages/{RESOLUTION} and Annotations/{RESOLUTION}"
        )
    names = read_text(listing).split()
    if not names:
        raise ValueError(f"{listing} names no videos")
    return [_list_video(root, name) for name in names]


def read_mask(path: str) -> np.ndarray:
    """[H, W] uint8 numbers of objects, 0 for background, `VOID` for pixels that do not count.

    Raises:
      OSError: if it does not exist.
      UnreadableImageError: if it is not an image.
      ValueError: if it has colors instead of numbers.
    """
    mode, values = read_values(path)
    if mode not in ("P", "L", "1"):
        raise ValueError(
            f"{path} has pixels of mode {mode}; a mask is an indexed PNG, whose numbers are those "
            "of the objects"
        )
    return values.astype(np.uint8)


def write_mask(path: epath.Path, mask: np.ndarray) -> None:
    """Writes [H, W] uint8 as an indexed PNG with the colors of PASCAL VOC and DAVIS."""
    image = Image.fromarray(mask)
    image.putpalette(palette().reshape(-1).tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        image.save(file, "PNG")


def palette() -> np.ndarray:
    """[256, 3] uint8: the bits of a number, three by three, are the high bits of its color."""
    colors, number = np.zeros((256, 3), np.uint8), np.arange(256)
    for level in range(8):
        for channel in range(3):
            colors[:, channel] |= (((number >> (3 * level + channel)) & 1) << (7 - level)).astype(
                np.uint8
            )
    return colors


def frame_size(height: int, width: int, short: int, patch_size: int) -> tuple[int, int]:
    """(H, W) to which a frame is resized.

    The short side becomes `short`, the long one a multiple of 64 below its share, as in the
    official code; both then the next multiple of a patch below, which changes nothing for patches
    of 8 and 16 and 480 pixels.

    Args:
      height: height of the video.
      width: width of the video.
      short: short side of the result in pixels.
      patch_size: patch size of the backbone.
    """
    long = int(short * max(height, width) / min(height, width) // 64 * 64)
    sides = (long, short) if height > width else (short, long)
    rows, columns = (max(side // patch_size, 1) * patch_size for side in sides)
    return rows, columns


def _list_video(root: epath.Path, name: str) -> Video:
    folders = [root / kind / RESOLUTION / name for kind in ("JPEGImages", "Annotations")]
    files = []
    for folder, suffix in zip(folders, (".jpg", ".png"), strict=True):
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} does not exist, although the list names {name!r}")
        files.append(sorted(str(p) for p in folder.iterdir() if p.name.endswith(suffix)))
    frames, masks = files
    stems = [[epath.Path(path).stem for path in paths] for paths in files]
    if stems[0] != stems[1] or len(frames) < FEWEST_FRAMES:
        raise ValueError(
            f"video {name!r} has {len(frames)} frames and {len(masks)} masks; expected a mask of "
            f"the same name for each, and at least {FEWEST_FRAMES}"
        )
    return Video(name, frames, masks)
