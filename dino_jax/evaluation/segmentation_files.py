"""Images with a class for every pixel, in the layouts of ADE20K and PASCAL VOC.

ADE20K (ADEChallengeData2016): FOLDER/images/{training,validation}/NAME.jpg and
FOLDER/annotations/{training,validation}/NAME.png. VOC (VOCdevkit/VOC2012): FOLDER/JPEGImages/
NAME.jpg, FOLDER/SegmentationClass/NAME.png and FOLDER/ImageSets/Segmentation/{train,val}.txt.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from dino_jax.evaluation.davis import read_mask
from dino_jax.evaluation.image_files import read_pixels
from dino_jax.foreign.files import read_text

IGNORED = 255  # a pixel that does not count
ADE20K_CLASSES, VOC_CLASSES = 150, 21
PARTS = {"train": ("training", "train"), "val": ("validation", "val")}  # in ADE20K, in VOC


class SegmentationFiles(NamedTuple):
    """One part of a data set.

    Attributes:
      name: "ade20k" or "voc".
      images: N files.
      masks: N files.
      classes: C.
      first: number of the first class in the masks; in ADE20K 0 stands for "other".
    """

    name: str
    images: list[str]
    masks: list[str]
    classes: int
    first: int

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels [H, W, 3] uint8 and classes [H, W] uint8, 0 to C - 1 or `IGNORED`.

        Raises:
          UnreadableImageError: if one of the files is not an image.
          ValueError: if their sizes differ, or a class is unknown.
        """
        pixels, mask = read_pixels(self.images[index]), read_mask(self.masks[index])
        if mask.shape != pixels.shape[:2]:
            raise ValueError(
                f"{self.masks[index]} has {mask.shape[0]} x {mask.shape[1]} pixels, its image "
                f"{pixels.shape[0]} x {pixels.shape[1]}"
            )
        numbers = mask.astype(np.int64) - self.first
        numbers[(numbers < 0) | (mask == IGNORED)] = IGNORED
        unknown = (numbers >= self.classes) & (numbers != IGNORED)
        if unknown.any():
            raise ValueError(
                f"{self.masks[index]} has the class {mask[unknown][0]}; {self.name} has "
                f"{self.classes} classes, the first is {self.first}"
            )
        return pixels, numbers.astype(np.uint8)


def open_segmentation(folder: str, part: str) -> SegmentationFiles:
    """Finds the files of a part, in whichever layout the folder has.

    Args:
      folder: local or gs://.
      part: "train" or "val", a key of `PARTS`.

    Raises:
      OSError: if files are missing.
      ValueError: if the part is empty.
    """
    root = epath.Path(folder).expanduser()
    ade_name, voc_name = PARTS[part]
    if (root / "annotations").is_dir():
        names = _stems(root / "images" / ade_name, ".jpg")
        places = (root / "images" / ade_name, root / "annotations" / ade_name)
        name, classes, first = "ade20k", ADE20K_CLASSES, 1
    elif (root / "SegmentationClass").is_dir():
        names = _listed(root / "ImageSets" / "Segmentation" / f"{voc_name}.txt")
        places = (root / "JPEGImages", root / "SegmentationClass")
        name, classes, first = "voc", VOC_CLASSES, 0
    else:
        raise FileNotFoundError(
            f"{root} has neither annotations/ (ADE20K) nor SegmentationClass/ (PASCAL VOC); --data "
            "is the folder ADEChallengeData2016 or VOCdevkit/VOC2012"
        )
    if not names:
        raise ValueError(f"the part {part} of {root} is empty")
    files = []
    for place, suffix in zip(places, (".jpg", ".png"), strict=True):
        _check_names(place, suffix, names)
        files.append([str(place / f"{stem}{suffix}") for stem in names])
    return SegmentationFiles(name, files[0], files[1], classes, first)


def _stems(folder: epath.Path, suffix: str) -> list[str]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist")
    return sorted(path.stem for path in folder.iterdir() if path.name.endswith(suffix))


def _listed(path: epath.Path) -> list[str]:
    if not path.exists():
        raise FileNotFoundError(f"{path}, the list of images, does not exist")
    return read_text(path).split()


def _check_names(folder: epath.Path, suffix: str, names: Sequence[str]) -> None:
    there = set(_stems(folder, suffix))
    missing = [name for name in names if name not in there]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {len(missing)} of {len(names)} files *{suffix}: {missing[:5]}"
        )
