"""What is checked on some images before a run starts."""

import io

import numpy as np
import pytest
from PIL import Image

from dino_jax.data.reading import require_readable


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


BYTE, DEEP = png(np.zeros((4, 4, 3), np.uint8)), png(np.zeros((4, 4), np.uint16))


class Images:
    """Records that count how often they are read; None: the file cannot be reached."""

    def __init__(self, *images):
        self.images, self.reads = images, 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.reads += 1
        if self.images[index] is None:
            raise OSError("the disk is away")
        return {"image": self.images[index], "label": -1, "name": str(index)}

    def name(self, index):
        return f"image {index}"


@pytest.mark.parametrize(
    ("images", "reads"), [((BYTE,) * 40, 1), ((DEEP, BYTE, DEEP), 2), ((None, DEEP), 1)]
)
def test_images_of_which_one_fits_pass(images, reads):
    source = Images(*images)
    require_readable({"config.data": source}, 100)
    assert source.reads == reads


def test_images_of_which_none_fits_are_refused_by_their_section():
    with pytest.raises(ValueError, match=r"config\.b: none of 8 images, evenly .* 80, .*uint16"):
        require_readable({"config.a": Images(BYTE), "config.b": Images(*[DEEP] * 80)}, 100)
