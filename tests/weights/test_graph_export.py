"""`dino-jax export --format=onnx|stablehlo`: programs that run without us."""

import json

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

import dino_jax
from dino_jax.weights import graph_export
from dino_jax.weights.export_weights import main
from dino_jax.weights.onnx import int8
from dino_jax.weights.onnx.convert import to_onnx
from tests.saved_model import save_tiny_vit

SIZE = (24, 40)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return save_tiny_vit(tmp_path_factory.mktemp("run"))


def run_onnx(path, images):
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images}), strict=True))


def run_stablehlo(path, images):
    return jax.export.deserialize(bytearray(path.read_bytes())).call(images)


@pytest.mark.parametrize(("suffix", "run"), [("onnx", run_onnx), ("stablehlo", run_stablehlo)])
def test_a_program_gives_the_features_of_the_model(suffix, run, workdir, tmp_path, capsys):
    out = tmp_path / f"model.{suffix}"
    options = [f"--out={out}", f"--format={suffix}", "--image-size=24x40"]
    assert main([str(workdir), *options]) == 0
    said = capsys.readouterr().out.splitlines()
    assert f"{suffix} for images [B, 24, 40, 3] uint8 in {out}, " in said[0]
    assert said[1].startswith("checked: read again and run on 1 and 3 images, features differ by ")
    assert said[2] == "license of the weights: yours to choose"
    images = np.random.default_rng(0).integers(0, 256, (5, *SIZE, 3), np.uint8)
    expected, found = dino_jax.load(workdir)(images), run(out, images)
    assert found.keys() == expected.keys()
    for name, features in expected.items():
        np.testing.assert_allclose(found[name], features, rtol=0, atol=1e-5)


def test_a_program_for_onnx_tells_where_it_comes_from(workdir, tmp_path):
    assert main([str(workdir), f"--out={tmp_path}/m.onnx", "--format=onnx"]) == 0
    made = onnx.load(tmp_path / "m.onnx")
    said = {entry.key: entry.value for entry in made.metadata_props}
    assert said == {"model": f"teacher of step 0 of {workdir}", "license": "yours to choose"}
    assert (made.producer_name, made.producer_version) == ("dino_jax", dino_jax.__version__)
    sizes = [
        size.dim_param or size.dim_value for size in made.graph.input[0].type.tensor_type.shape.dim
    ]
    assert sizes == ["batch", 32, 32, 3]  # that of the position table


def test_stablehlo_is_for_cpus_gpus_and_tpus(workdir, tmp_path):
    assert main([str(workdir), f"--out={tmp_path}/m.stablehlo", "--format=stablehlo"]) == 0
    exported = jax.export.deserialize(bytearray((tmp_path / "m.stablehlo").read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")


def test_a_program_that_computes_something_else_is_not_left(workdir, tmp_path, monkeypatch):
    def read_badly(place):
        run = graph_export._read_onnx(place)
        return lambda images: run(images) | {"cls": 1.001 * run(images)["cls"] + 1e-3}

    formats = {"onnx": (graph_export._write_onnx, read_badly)}
    monkeypatch.setattr(graph_export, "FORMATS", formats)
    with pytest.raises(ValueError, match=r"cls of the file differs by .* of the largest feature"):
        graph_export.export_graph(str(workdir), str(tmp_path / "new/m.onnx"), "onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Dark and bright noise, a folder each."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name, most in (("dark", 60), ("bright", 256)):
        (folder / name).mkdir()
        for number in range(6):
            pixels = rng.integers(0, most, (40, 36, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def test_int8_says_what_it_costs_on_photos(workdir, photos, tmp_path, capsys):
    options = [f"--out={tmp_path}/m.onnx", "--format=onnx", "--image-size=24x40"]
    assert main([str(workdir), *options, f"--int8={photos}"]) == 0
    written = capsys.readouterr()
    said = written.out.splitlines()
    assert "pre-processing" not in written.err
    assert said[2].startswith(f"int8 against float32 on 12 images of {photos}: cosine of cls 0.9")
    assert "k-NN accuracy (leave-one-out, k 20)" in said[2]
    images = np.random.default_rng(0).integers(0, 256, (5, *SIZE, 3), np.uint8)
    expected, found = dino_jax.load(workdir)(images)["cls"], run_onnx(tmp_path / "m.onnx", images)
    cosines = np.sum(expected * found["cls"], 1) / (
        np.linalg.norm(expected, axis=1) * np.linalg.norm(found["cls"], axis=1)
    )
    assert 0.9 < cosines.min() < 1
    kinds = [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node]
    assert kinds.count("MatMulInteger") == 1 + 2 * 4  # patches; qkv, projection, two of the MLP
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx", "m.onnx.provenance.json"]


def test_the_loss_of_int8_is_that_of_k_nearest_neighbors():
    labels = np.array([0, 0, 0, 1, 1, 1], np.int32)
    images = np.arange(6).reshape(6, 1, 1, 1).astype(np.uint8)
    angles = np.array([0.0, 0.1, 0.2, 1.3, 1.4, 1.5])

    def look(table):
        turned = np.stack([np.cos(table), np.sin(table)], axis=1)
        return lambda batch: {"cls": turned[batch[:, 0, 0, 0]]}

    moved = np.array([0.0, 0.1, 1.45, 1.3, 1.4, 1.5])  # the third among those of the other class
    loss = int8.measure_loss(look(angles), look(moved), images, labels)
    assert loss.accuracies == pytest.approx((1, 5 / 6))
    assert loss.least_cosine == pytest.approx(np.cos(1.25), abs=1e-6)
    with pytest.raises(ValueError, match=r"does not bear 8 bits"):
        int8.require_faithful(loss._replace(mean_cosine=0.89))
    unlabelled = int8.measure_loss(look(angles), look(moved), images, labels - 1)
    assert unlabelled.accuracies is None and "no class folders" in unlabelled.describe("x")


def test_a_graph_without_products_of_weights_has_no_int8(tmp_path):
    onnx.save(to_onnx(lambda x: {"x": x.mean((1, 2))}, (4, 4, 3), np.float32), tmp_path / "a.onnx")
    with pytest.raises(ValueError, match="no matrix products with weights"):
        int8.quantize(tmp_path / "a.onnx", tmp_path / "b.onnx")


def test_weights_of_a_large_model_lie_beside_it(workdir, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(graph_export, "MAX_ONNX_BYTES", 10_000)
    out = tmp_path / "m.onnx"
    assert main([str(workdir), f"--out={out}", "--format=onnx"]) == 0
    assert f"{out} and {out}.data, " in capsys.readouterr().out
    files = json.loads((tmp_path / "m.onnx.provenance.json").read_text())["files"]
    assert sorted(files) == ["m.onnx", "m.onnx.data"]
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    expected = dino_jax.load(workdir)(images)["cls"]
    np.testing.assert_allclose(run_onnx(out, images)["cls"], expected, rtol=0, atol=1e-5)
    with pytest.raises(SystemExit, match="2"):
        main([str(workdir), f"--out={tmp_path}/n.onnx", "--format=onnx", f"--int8={photos}"])
    assert "models of more than 2 GB are not supported" in capsys.readouterr().err
    left = ["m.onnx", "m.onnx.data", "m.onnx.provenance.json"]
    assert sorted(file.name for file in tmp_path.iterdir()) == left


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out=m.bin", "--format=onnx"], "--out=m.bin must end in .onnx"),
        (["--out=m.onnx", "--format=stablehlo"], "--out=m.onnx must end in .stablehlo"),
        (["--out=m.onnx", "--format=onnx", "--image-size=7"], "--image-size=7x7 is smaller than"),
        (["--out=m.onnx", "--format=onnx", "--image-size=0"], "--image-size: must be at least 1"),
        (["--out=m.onnx", "--format=onnx", "--image-size=1x"], "--image-size: expected"),
        (["--out=m.onnx", "--format=onnx", "--image-size=x9"], "--image-size: expected"),
        (["--out=m.onnx", "--format=onnx", "--names=official"], "--names and --heads are for"),
        (["--out=m.stablehlo", "--format=stablehlo", "--int8=x"], "--int8 is for --format=onnx"),
        (["--out=m.onnx", "--format=onnx", "--int8=none"], "image folder 'none' does not exist"),
        (["--out=m.safetensors"], "missing --names, one of official, huggingface"),
        (
            ["--out=m.safetensors", "--names=official", "--image-size=32"],
            "--image-size is for --format=onnx",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options, words, workdir, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main([str(workdir), *options])
    assert words in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_not_written_over(workdir, tmp_path, capsys):
    (tmp_path / "m.onnx").touch()
    with pytest.raises(SystemExit, match="2"):
        main([str(workdir), f"--out={tmp_path}/m.onnx", "--format=onnx"])
    assert "already exists; choose a new place" in capsys.readouterr().err
