"""`dino-jax export --format=onnx|stablehlo`: programs that run without us."""

import jax
import numpy as np
import onnx
import onnxruntime
import pytest

import dino_jax
from dino_jax.weights import graph_export
from dino_jax.weights.export_weights import main
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
    def read_badly(data):
        run = graph_export._read_onnx(data)
        return lambda images: run(images) | {"cls": 1.001 * run(images)["cls"] + 1e-3}

    formats = {"onnx": (graph_export._make_onnx, read_badly)}
    monkeypatch.setattr(graph_export, "FORMATS", formats)
    with pytest.raises(ValueError, match=r"cls of the file differs by .* of the largest feature"):
        graph_export.export_graph(str(workdir), str(tmp_path / "new/m.onnx"), "onnx")
    assert list(tmp_path.iterdir()) == []


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
