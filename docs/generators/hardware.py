"""The tables of docs/explain/hardware.md, from what tests/benchmarks/memory.py has written.

python -m docs.generators.hardware prints them.
"""

import json
import math
from pathlib import Path
from typing import Any

from docs.generators.markdown import table

FILE = Path(__file__).parents[1] / "explain/memory.json"
GIB = 2**30
CARDS = (4, 8, 16, 24)  # GiB
USABLE = 0.9  # share of a card; the rest is for the driver, the runtime and fragments
NAMES = {"tiny": "ViT-Ti/16", "small": "ViT-S/16", "base": "ViT-B/16", "large": "ViT-L/16"}
REMATS = ("names", "full")


def most_images(few: float, many: float, card: float) -> int:
    """Images that fit; below 8, memory is not a line any more.

    Args:
      few: bytes of a step of 8 images.
      many: bytes of a step of 32 images.
      card: memory in GiB.
    """
    per_image = (many - few) / 24
    return math.floor(8 + (USABLE * card * GIB - few) / per_image)


def card_table(found: dict[str, Any]) -> str:
    """Images per step by backbone and memory, with remat "names" and "full"."""
    rows = []
    for size, name in NAMES.items():
        cells = []
        for card in CARDS:
            fit = [
                most_images(*(found[f"cpu {size} {remat} {b}"]["memory"] for b in (8, 32)), card)
                for remat in REMATS
            ]
            cells.append(" / ".join(str(n) if n >= 8 else "< 8" for n in fit))
        state = found[f"cpu {size} full 8"]["state"] / GIB
        rows.append((name, f"{state:.1f} GiB", *cells))
    return table(("backbone", "state", *(f"{card} GB" for card in CARDS)), rows)


def slice_table(found: dict[str, Any]) -> str:
    """Memory per device of a step of 32 images on each device of TPU slices."""
    rows = []
    for key, one in found.items():
        name, _, size = key.partition(" ")
        if ":" not in name:
            continue
        usable = f"{one['usable'] / GIB:.2f}"
        needs = f"{one['memory'] / GIB:.2f}" if one["memory"] else "not known"
        rows.append((name, NAMES[size], needs, usable, "yes" if one["fits"] else "no"))
    return table(("slice", "backbone", "needs, GiB", "usable, GiB", "fits"), rows)


def main() -> None:
    """Prints both tables."""
    found = json.loads(FILE.read_text())
    print(card_table(found), slice_table(found), sep="\n\n")


if __name__ == "__main__":
    main()
