"""The drawings of docs/explain: python -m docs.generators.pictures writes them again.

Crops, curves and bars are computed by the library. Each has a light ground of its own, so that it
can be read on light and dark pages.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from dino_jax.data.augment import CropConfig, sample_crop_parameters
from dino_jax.models.position import POSITION_KERNELS
from docs.generators.examples import COLLAPSE_CASES, collapse_targets

FOLDER = Path(__file__).parents[1] / "explain/pictures"
INK, PALE, BLUE, ORANGE, GREEN = "#20242c", "#d5d9e2", "#2457c5", "#b45309", "#15803d"


def _svg(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    style = "font:14px system-ui,sans-serif"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" role="img" style="{style}"><title>{title}</title>'
        f'<rect width="{width}" height="{height}" rx="8" fill="#fbfbfd"/>'
    )
    return "\n".join([head, *parts, "</svg>\n"])


def _text(x: float, y: float, text: str, anchor: str = "middle", color: str = INK) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{color}">{text}</text>'


def _box(x: float, y: float, width: float, height: float, color: str, fill: str = "none") -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4" fill="{fill}" '
        f'stroke="{color}" stroke-width="2"/>'
    )


def _arrow(x0: float, y0: float, x1: float, y1: float, color: str = INK, dash: str = "") -> str:
    length = max(np.hypot(x1 - x0, y1 - y0), 1e-9)
    ux, uy = (x1 - x0) / length, (y1 - y0) / length
    left = f"{x1 - 9 * ux - 5 * uy:.1f},{y1 - 9 * uy + 5 * ux:.1f}"
    right = f"{x1 - 9 * ux + 5 * uy:.1f},{y1 - 9 * uy - 5 * ux:.1f}"
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x0:g}" y1="{y0:g}" x2="{x1 - 8 * ux:.1f}" y2="{y1 - 8 * uy:.1f}" '
        f'stroke="{color}" stroke-width="2"{dashes}/>'
        f'<polygon points="{x1:g},{y1:g} {left} {right}" fill="{color}"/>'
    )


def draw_dino() -> str:
    """Student and teacher."""
    parts = []
    for y, color, name, sees in (
        (40, BLUE, "student", "all crops"),
        (150, ORANGE, "teacher", "large crops"),
    ):
        parts += [
            _text(64, y + 30, sees),
            _arrow(112, y + 25, 150, y + 25),
            _box(150, y, 130, 50, color),
            _text(215, y + 21, name, color=color),
            _text(215, y + 39, "backbone"),
            _arrow(280, y + 25, 318, y + 25),
            _box(318, y, 80, 50, color),
            _text(358, y + 30, "head"),
            _arrow(398, y + 25, 436, y + 25),
        ]
    parts += [
        _box(436, 40, 120, 50, BLUE),
        _text(496, 61, "softmax"),
        _text(496, 79, "temperature 0.1"),
        _box(436, 150, 120, 50, ORANGE),
        _text(496, 171, "center, then"),
        _text(496, 189, "temperature 0.04"),
        _arrow(556, 65, 610, 108),
        _arrow(556, 175, 610, 132),
        _text(655, 117, "cross-"),
        _text(655, 135, "entropy"),
        _arrow(215, 90, 215, 150, ORANGE, "5 4"),
        _text(226, 125, "average over time (EMA)", "start", ORANGE),
        _text(496, 226, "no gradient reaches the teacher"),
        _text(496, 25, "gradients flow back through the student"),
    ]
    return _svg(700, 245, "Student and teacher of DINO", parts)


def draw_crops() -> str:
    """The boxes that the shipped augmentation draws for one image, with seed 7."""
    rng, side = np.random.default_rng(7), 280
    parts = [_box(20, 20, side, side, PALE, "#eef1f7")]
    kinds = (
        (CropConfig(), 2, BLUE),
        (CropConfig("local", 8, (96, 96), (0.05, 0.4), blur=0.5), 8, ORANGE),
    )
    for config, count, color in kinds:
        for _ in range(count):
            left, top, right, bottom = sample_crop_parameters(rng, config, side, side).box
            parts.append(_box(20 + left, 20 + top, right - left, bottom - top, color))
    parts += [
        _text(330, 60, "2 large crops, 40 to 100 % of the image,", "start", BLUE),
        _text(330, 80, "become 224 x 224 pixels: 196 patches of 16", "start", BLUE),
        _text(330, 130, "8 small crops, 5 to 40 %,", "start", ORANGE),
        _text(330, 150, "become 96 x 96 pixels: 36 patches", "start", ORANGE),
        _text(330, 200, "The teacher sees the large ones only.", "start"),
        _text(330, 220, "The student sees all ten, and must say of each", "start"),
        _text(330, 240, "what the teacher says of the large ones.", "start"),
    ]
    return _svg(660, 320, "Boxes of two large and eight small crops of an image", parts)


def draw_collapse() -> str:
    """The targets of three images and four prototypes in four cases."""
    parts = []
    for column, (name, targets) in enumerate(collapse_targets().items()):
        x = 30 + 170 * column
        parts.append(_text(x + 60, 28, name))
        for row, target in enumerate(targets):
            base = 120 + 80 * row
            parts.append(f'<line x1="{x}" y1="{base}" x2="{x + 120}" y2="{base}" stroke="{INK}"/>')
            for k, share in enumerate(target):
                height = 60 * float(share)
                parts.append(
                    f'<rect x="{x + 4 + 30 * k}" y="{base - height:.2f}" width="22" '
                    f'height="{height:.2f}" fill="{(BLUE, ORANGE, GREEN, INK)[k]}"/>'
                )
    return _svg(30 + 170 * len(COLLAPSE_CASES), 300, "Targets of three images in four cases", parts)


def draw_positions() -> str:
    """A row of 14 positions, resampled to 6 by three kernels."""
    table = np.sin(np.arange(14) * 0.9) + 0.3 * np.cos(np.arange(14) * 2.3)
    x_of = lambda place: 40 + 42 * place  # noqa: E731
    y_of = lambda value: 130 - 65 * value  # noqa: E731
    line = " ".join(f"{x_of(i):.1f},{y_of(v):.1f}" for i, v in enumerate(table))
    parts = [f'<polyline points="{line}" fill="none" stroke="{PALE}" stroke-width="3"/>']
    parts += [
        f'<circle cx="{x_of(i):.1f}" cy="{y_of(v):.1f}" r="4" fill="#8a93a6"/>'
        for i, v in enumerate(table)
    ]
    centers = (np.arange(6) + 0.5) * 14 / 6 - 0.5
    for color, shift, (name, kernel) in zip(
        (BLUE, ORANGE, GREEN), (-7, 0, 7), POSITION_KERNELS.items(), strict=True
    ):
        for place, value in zip(centers, kernel(14, 6) @ table, strict=True):
            parts.append(
                f'<rect x="{x_of(place) + shift - 4:.1f}" y="{y_of(value) - 4:.1f}" width="8" '
                f'height="8" fill="{color}"/>'
            )
        parts.append(_text(150 + 160 * (shift / 7 + 1), 265, name, color=color))
    parts.append(
        _text(310, 22, "grey: a channel of a table of 14 positions; squares: resized to 6")
    )
    return _svg(640, 280, "A row of positions, resized by three kernels", parts)


PICTURES: dict[str, Callable[[], str]] = {
    "dino.svg": draw_dino,
    "crops.svg": draw_crops,
    "collapse.svg": draw_collapse,
    "positions.svg": draw_positions,
}


def main() -> None:
    """Writes all pictures."""
    FOLDER.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
