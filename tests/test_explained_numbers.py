"""What docs/explain works through: the numbers and pictures are what the library computes today."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from docs.generators import examples, hardware, pictures

EXPLAIN = Path(__file__).parents[1] / "docs/explain"


def table_rows(page: str, first_cell: str) -> list[list[str]]:
    """Cells of the table rows whose first cell is this one."""
    lines = (EXPLAIN / page).read_text().splitlines()
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines if "|" in line
    ]
    return [row[1:] for row in rows if row[0] == first_cell]


@pytest.mark.parametrize("image", range(3))
def test_the_logits_of_the_page_are_those_of_the_example(image):
    (row,) = table_rows("collapse.md", f"image {'ABC'[image]}")
    np.testing.assert_array_equal(np.array(row, np.float32), examples.LOGITS[image])


def test_the_entropies_of_the_page_are_computed():
    for name, (of_targets, of_mean) in examples.collapse_entropies().items():
        (row,) = table_rows("collapse.md", name)
        expected = [of_targets, of_mean, of_mean - of_targets]
        np.testing.assert_allclose(np.array(row, float), expected, atol=6e-4)


def test_the_entropies_are_those_of_plain_numpy():
    logits = examples.LOGITS.astype(np.float64)
    for name, (centered, temperature) in examples.COLLAPSE_CASES.items():
        scores = (logits - centered * logits.mean(axis=0)) / temperature
        targets = np.exp(scores - scores.max(axis=1, keepdims=True))
        targets /= targets.sum(axis=1, keepdims=True)
        both = [
            -np.sum(p * np.log(np.maximum(p, 1e-300)), axis=-1) for p in (targets, targets.mean(0))
        ]
        found = examples.collapse_entropies()[name]
        np.testing.assert_allclose(found, [both[0].mean(), both[1]], atol=1e-5)


@pytest.mark.parametrize("size", [6, 2])
def test_the_positions_of_the_page_are_computed(size):
    for name, values in examples.resized_positions(size).items():
        row = next(r for r in table_rows("positions.md", name) if len(r) in (size, size + 1))
        np.testing.assert_allclose(np.array(row[-size:], float), values, atol=6e-5)


def test_the_position_worked_by_hand_is_that_of_the_plain_kernel():
    text = (EXPLAIN / "positions.md").read_text()
    weights = re.search(r"has the weights\n?\s*([-\d., ]+): that", text)
    weights = np.array(weights[1].split(", "), float)
    kernel = pictures.POSITION_KERNELS["bicubic_plain"](4, 6)
    np.testing.assert_allclose(weights, kernel[2], atol=6e-5)
    np.testing.assert_allclose(kernel[2] @ examples.POSITIONS, 1.4306, atol=6e-5)
    (row,) = table_rows("positions.md", "lies at")
    np.testing.assert_allclose(np.array(row, float), (np.arange(6) + 0.5) * 4 / 6 - 0.5, atol=6e-5)


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_a_picture_is_what_its_program_draws(name):
    assert (pictures.FOLDER / name).read_text() == pictures.PICTURES[name]()


def test_the_table_of_memory_is_that_of_the_measurements():
    found = json.loads(hardware.FILE.read_text())
    assert hardware.card_table(found) in (EXPLAIN / "hardware.md").read_text()


def test_images_that_fit_lie_on_the_line_through_two_programs():
    gib = 2**30
    assert hardware.most_images(2 * gib, 4 * gib, 4 / 0.9) == 32
    assert hardware.most_images(2 * gib, 4 * gib, 3 / 0.9) == 20
