"""Images of many kinds are the same in every source, and a build measures their numbers."""

import json
import tarfile
from io import BytesIO

import numpy as np
import pytest

from dino_jax.data.building.build import main
from dino_jax.data.decode import UnreadableImageError
from dino_jax.data.pipeline import build_eval_stream
from dino_jax.data.reading import read_image
from dino_jax.data.sources import build_source
from dino_jax.data.sources.contents import contents_of
from dino_jax.data.view import View
from tests.data.image_kinds import npy, png16, tiff

LIMIT = 10**6
VALUES = np.random.default_rng(0).integers(0, 4096, (5, 6, 8), np.uint16)
FILES = {
    "a/0.png": png16(VALUES[0]),
    "a/1.tif": tiff(VALUES[1]),
    "a/2.npy": npy(VALUES[2]),
    "b/3.pgm": b"P5 8 6 65535\n" + VALUES[3].astype(">u2").tobytes(),
    "b/4.npy": npy(VALUES[4][None]),
}
TWELVE_BITS = {"channels": 1, "range": "0,4095"}


@pytest.fixture
def folder(tmp_path):
    for name, data in FILES.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "in"


def _expected(values):
    return np.rint(values * (255 / 4095)).astype(np.uint8)[..., None]


def _tar(folder, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        for name, data in FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, BytesIO(data))
    return {"kind": "tar", "path": str(tmp_path / "x.tar")}


def _parquet(folder, tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"image": list(FILES.values())}), tmp_path / "x.parquet")
    return {"kind": "parquet", "path": str(tmp_path / "x.parquet"), "image_column": "image"}


def _records(folder, tmp_path):
    options = ("--workers=0", "--channels=1", "--range=full")
    assert main([str(folder), f"--out={tmp_path / 'records'}", *options]) == 0
    return {"kind": "arrayrecord", "path": str(tmp_path / "records")}


def _folder(folder, tmp_path):
    return {"kind": "folder", "path": str(folder)}


def _mixture(folder, tmp_path):
    return {"kind": "mixture", "sources": {"one": _folder(folder, tmp_path)}}


def _glob(folder, tmp_path):
    return {"kind": "glob", "path": f"{folder}/*/*"}


EVERY = pytest.mark.parametrize("make", [_folder, _glob, _tar, _parquet, _records, _mixture])


@EVERY
def test_a_source_says_how_its_images_are_decoded(make, folder, tmp_path):
    source = build_source({**make(folder, tmp_path), **TWELVE_BITS})
    for index, values in enumerate(VALUES):
        np.testing.assert_array_equal(read_image(source, index, LIMIT)[0], _expected(values))
    (batch,) = build_eval_stream(
        source, image_size=6, batch_size=5, max_pixels=LIMIT, channels=1, view=View(short_side=1.0)
    )
    assert batch["image"].shape == (5, 6, 6, 1)
    assert batch["valid"].all()


@EVERY
def test_without_a_range_none_of_them_is_read_and_each_says_why(make, folder, tmp_path):
    source = build_source({**make(folder, tmp_path), "channels": 1})
    for index in range(len(FILES)):
        with pytest.raises(UnreadableImageError, match=r"uint16, \d+ to \d+, .*set range to full"):
            read_image(source, index, LIMIT)


def test_the_parts_of_a_mixture_may_be_decoded_differently(folder):
    part = {"kind": "folder", "path": str(folder)}
    mixed = build_source(
        {
            "kind": "mixture",
            "sources": {"one": part, "two": {**part, "range": "full"}},
            **TWELVE_BITS,
        }
    )
    np.testing.assert_array_equal(read_image(mixed, 0, LIMIT)[0], _expected(VALUES[0]))
    full = np.rint(VALUES[0] / 257).astype(np.uint8)[..., None]
    np.testing.assert_array_equal(read_image(mixed, 5, LIMIT)[0], full)


def test_images_that_are_decoded_differently_are_other_images(folder):
    plain = {"kind": "folder", "path": str(folder)}
    digests = {
        contents_of("x", build_source({**plain, **options}))["x"].digest
        for options in ({}, {"channels": 1}, {"range": "full"}, {"orientation": "apply"})
    }
    assert len(digests) == 4


def test_a_network_of_other_channels_is_an_error_and_no_lost_image(folder):
    source = build_source({"kind": "folder", "path": str(folder), **TWELVE_BITS})
    stream = build_eval_stream(source, image_size=6, batch_size=5, max_pixels=LIMIT)
    with pytest.raises(ValueError, match="decoded to 1 channels, and the network takes 3"):
        list(stream)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"range": "all"}, "SOURCE.range is 'all'; expected byte"),
        ({"orientation": "turn"}, "SOURCE.orientation is 'turn'; known"),
        ({"clip": True}, "SOURCE.range is 'byte'; only numbers outside"),
        ({"channels": -1}, "SOURCE.channels must be at least 0"),
    ],
)
def test_wrong_options_name_themselves_before_an_image_is_read(options, reason, folder):
    with pytest.raises(ValueError, match=reason):
        build_source({"kind": "folder", "path": str(folder), **options}, "SOURCE")


def test_an_array_beside_an_image_is_not_the_image_of_its_sample(tmp_path):
    image = png16(VALUES[0])
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        for name, data in {"k.png": image, "k.npy": npy(VALUES[1])}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, BytesIO(data))
    source = build_source({"kind": "tar", "path": str(tmp_path / "x.tar")})
    assert [source[0]["name"], len(source)] == ["k.png", 1]


@pytest.mark.parametrize("kind", ["int16", "float32"])
def test_a_build_measures_the_range_mean_and_std_of_all_images(kind, tmp_path, capsys):
    values = (VALUES.astype(np.float64) - 1000).astype(kind)
    (tmp_path / "in").mkdir()
    for number, image in enumerate(values):
        (tmp_path / "in" / f"{number}.tif").write_bytes(tiff(image))
    options = ("--workers=0", "--channels=1", "--measure-range", "--compute-stats")
    assert main([str(tmp_path / "in"), f"--out={tmp_path / 'out'}", *options]) == 0
    low, high = float(values.min()), float(values.max())
    assert f"--config.data.range={low:.9g},{high:.9g}" in capsys.readouterr().out
    said = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert said["limits"] == [low, high]
    shares = (values.astype(np.float64) - low) / (high - low)
    np.testing.assert_allclose(said["mean"], [shares.mean()], atol=2e-6)
    np.testing.assert_allclose(said["std"], [shares.std()], atol=2e-6)
    path = {"kind": "arrayrecord", "path": str(tmp_path / "out"), "channels": 1}
    source = build_source({**path, "range": f"{low},{high}"})
    expected = np.rint(255 * shares[2]).astype(np.uint8)
    np.testing.assert_allclose(read_image(source, 2, LIMIT)[0][..., 0], expected, atol=1)


def test_a_build_of_deep_images_without_a_range_says_which_option_to_set(folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(folder), f"--out={tmp_path / 'out'}", "--workers=0", "--channels=1"])
    assert "set range to full, LOW,HIGH or LOW%,HIGH% (config.data.range, or --range" in (
        capsys.readouterr().err
    )
