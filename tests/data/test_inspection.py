"""What build finds out about every image."""

import hashlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from dino_jax.data.building import inspection
from dino_jax.data.sources import FolderSource


def _save(path, pixels):
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())
    return buffer.getvalue()


def test_an_inspection_holds_hash_size_and_moments(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    data = _save(tmp_path / "a.png", pixels)
    found = inspection.inspect_image(FolderSource(tmp_path), 0, 100, moments=True)
    assert found.digest == hashlib.sha256(data).digest()
    assert (found.size, found.error) == (len(data), "")
    values = pixels.reshape(-1, 3) / 255
    np.testing.assert_allclose(found.moments, [values.mean(0), (values**2).mean(0)], rtol=1e-6)


def test_every_image_weighs_the_same_in_mean_and_std(tmp_path):
    _save(tmp_path / "a.png", np.full((40, 40, 3), (0, 51, 255), np.uint8))
    _save(tmp_path / "b.png", np.full((2, 2, 3), (0, 153, 255), np.uint8))
    source = FolderSource(tmp_path)
    scan = inspection.scan_images(source, range(2), 10_000, True, lambda: None)
    mean, std = inspection.mean_and_std(scan.moments)
    assert mean == pytest.approx((0.0, 0.4, 1.0), abs=1e-6)
    assert std == pytest.approx((0.0, 0.2, 0.0), abs=5e-4)


def test_scans_of_parts_survive_the_disk_and_join_to_the_scan_of_all(tmp_path):
    for level in range(5):
        _save(tmp_path / f"{level}.png", np.full((4, 4, 3), level, np.uint8))
    (tmp_path / "3.png").write_bytes(b"")
    source = FolderSource(tmp_path)
    whole = inspection.scan_images(source, range(5), 100, True, lambda: None)
    parts = [
        inspection.scan_from_bytes(
            inspection.scan_to_bytes(inspection.scan_images(source, part, 100, True, lambda: None))
        )
        for part in (range(2), range(2, 2), range(2, 5))
    ]
    joined = inspection.join_scans(parts)
    np.testing.assert_array_equal(joined.readable, [True, True, True, False, True])
    for name in ("digests", "readable", "moments"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
    assert (joined.size, joined.errors) == (whole.size, whole.errors)
    assert joined.errors == ("the file is empty (0 bytes)",)


def test_the_original_of_a_copy_is_the_first_readable_image_with_its_bytes():
    rng = np.random.default_rng(0)
    contents = rng.integers(0, 30, 200)
    readable = rng.random(200) < 0.8
    digests = np.stack(
        [np.frombuffer(hashlib.sha256(bytes([content])).digest(), np.uint8) for content in contents]
    )
    expected = [
        min(j for j in range(200) if contents[j] == contents[i] and readable[j])
        if readable[i]
        else i
        for i in range(200)
    ]
    np.testing.assert_array_equal(inspection.find_originals(digests, readable), expected)


def test_digests_that_differ_in_one_byte_are_different_images():
    digests = np.zeros((3, 32), np.uint8)
    digests[1, 31] = 1
    originals = inspection.find_originals(digests, np.ones(3, bool))
    np.testing.assert_array_equal(originals, [0, 1, 0])
