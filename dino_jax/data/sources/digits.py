"""scikit-learn's handwritten digits, for runs without a download."""

from typing import Any

import numpy as np
from PIL import Image

from dino_jax.data.sources.base import Record

TEST_SIZE = 359


class DigitsSource:
    """scikit-learn's 1,797 handwritten digits (8x8 gray), as 32x32 RGB: real images, no download.

    The split "test" holds 359 images, "train" 1,438: scikit-learn's `train_test_split` with
    random_state=0. On it the weighted k-NN (cosine, k = 10, temperature 0.07) of the raw 8x8 pixels
    reaches 97.21 %.
    """

    def __init__(self, split: str):
        """Loads the digits; `split` is "train", "test" or "all".

        Raises:
          ValueError: for another split.
        """
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits: Any = load_digits()
        everything = np.arange(len(digits.images))
        train, test = train_test_split(everything, test_size=TEST_SIZE, random_state=0)
        splits = {"train": train, "test": test, "all": everything}
        if split not in splits:
            raise ValueError(f"the digits have no split {split!r}; known: {sorted(splits)}")
        self._split = split
        self._images = np.stack([_enlarge_digit(digits.images[index]) for index in splits[split]])
        self._labels = digits.target[splits[split]]
        self.class_names: tuple[str, ...] = tuple(str(digit) for digit in range(10))

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Record:
        return {
            "image": self._images[index],
            "label": int(self._labels[index]),
            "name": str(index),
        }

    def name(self, index: int) -> str:
        """The record's place in the split."""
        return f"digits/{self._split}[{index}]"


def _enlarge_digit(image: np.ndarray) -> np.ndarray:
    """[8, 8] gray levels 0 to 16 -> [32, 32, 3] uint8."""
    pixels = Image.fromarray(np.rint(image * (255 / 16)).astype(np.uint8))
    return np.array(pixels.resize((32, 32), Image.Resampling.BICUBIC).convert("RGB"))
