"""A command that ends with exit code 2 has said so in one line and has left nothing behind."""

import importlib
import signal

import numpy as np
import pytest
from PIL import Image

from dino_jax.__main__ import COMMANDS
from tests.saved_model import save_tiny_vit

EMBED = "embed {model} {photos} --out={out} --batch-size=4"
EVALUATE = "evaluate knn --checkpoint={model} --data={photos} --out={out} --batch-size=4"
ATTENTION = "visualize attention {model} {photos} --out={out}/deep"
SEARCH = "search build {out}/i {model} {photos} --batch-size=4"
# Command lines that parse, but cannot be carried out, and words of the message.
WRONG = [
    ("train --config=quickstart --workdir={out} --config.batch_size=5000", "config.batch_size"),
    ("train --config=quickstart --workdir={out} --config.network.backbone.kind=x", "CONTRIBUTING"),
    ("train --config=quickstart --workdir={out} --config.data.kind=folder", "config.data"),
    ("show --config=quickstart --out={out}/s.png", "No such file or directory"),
    ("config --config=quickstart --base=nothing", "no shipped config is called 'nothing'"),
    ("doctor --config=quickstart --workdir={out} --config.seed=-1", "config.seed must be at least"),
    ("plan --config=quickstart --topology=v9:1x1", "unknown chip 'v9' in --topology"),
    ("report {out} --out={out}", "{out}"),
    (f"{EVALUATE} --image-size=3", "--image-size=3 is smaller than one patch of 8 pixels"),
    (f"{EVALUATE} --batch-size=3", "--batch-size=3 must be a multiple of the 4 devices"),
    (f"{EVALUATE} --image-size=16384", "--image-size=16384: the attention of one image takes"),
    (f"{EVALUATE} --k 500", "--k [500]"),
    (f"{EMBED} --image-size=3", "--image-size=3 is smaller than one patch of 8 pixels"),
    (f"{EMBED} --image-size=16384", "--image-size=16384: the attention of one image takes"),
    (f"{EMBED} --batch-size=3", "--batch-size=3 must be a multiple of the 4 devices"),
    (f"{EMBED} --layers=9", "--layers=9"),
    (f"{EMBED} --reduce=pca --dim=100000", "--dim=100000: PCA of 12 sample images with 24 numbers"),
    (f"{EMBED} --reduce=random --dim=100000", "--dim=100000: a projection of 24 numbers"),
    (f"{EMBED} --reduce=pca --dim=12", "--dim=12: PCA of 11 sample images"),  # one is unreadable
    (f"{EMBED} --kind=zip", "kind is 'zip'"),
    (f"{EMBED} --step=9", "no checkpoint 9"),
    ("embed {model} {photos}/no --out={out}", "does not exist"),
    (f"{ATTENTION} --size=4", "smaller than a patch of 8"),
    (f"{ATTENTION} --step=9", "no checkpoint 9"),
    ("visualize similar_patches {model} {photos} --out={out}", "needs --point=X,Y"),
    ("visualize similar_patches {model} {photos} --out={out} --point=900,2", "is outside of the"),
    ("visualize neighbours {model} {photos} --out={out}", "needs --gallery=FOLDER"),
    ("visualize pca {model} {photos}/a/0.png.no --out={out}", "there is no image or folder"),
    ("visualize pca {model} {photos}/b/bad.png --out={out}", "no image can be read"),
    ("search build {out}/i {model} {photos}/no", "does not exist"),
    ("search build {out}/i {model} {photos} --batch-size=3", "must be a multiple of the 4 devices"),
    ("search build {out}/i {model} {photos} --image-size=3", "smaller than one patch of 8 pixels"),
    (f"{SEARCH} --reduce=pca --dim=100000", "--dim=100000: PCA of 12 sample images"),
    ("search build {out}/i --from={photos}", "is no folder of dino-jax embed"),
    ("search query {photos} {photos}/a/0.png", "is not an index"),
    ("search compact {out}", "is not an index"),
    ("tune {photos} --out={out} --sku=label", "embed"),
    ("tune {photos}/no --out={out} --sku=label", "no"),
    ("improve {model} {photos}/no --out={out} --steps=9", "does not exist"),
    ("improve {model} {photos} --out={out} --steps=9", "are too few: at least 80 are needed"),
    ("curate deduplicate {photos} --out={out} --threshold=0.9", "embed"),
    ("curate cluster {photos}/no --out={out}", "no"),
    ("curate sample {photos} --out={out} --target=5", "{out}"),
    ("import {photos}/a/0.png --out={out}", "0.png"),
    ("import {photos}/no.pth --out={out}", "no.pth"),
    ("export {model} --out={out}/deep/x.bin --names=official", "--out"),
    ("export {model} --out={out}/deep/x.pth --names=official --step=9", "no checkpoint 9"),
    ("convert {photos}/no.yaml --out={out}", "no.yaml"),
    ("build {photos}/no --out={out}", "does not exist"),
    ("build {photos} --out={out} --kind=zip", "kind is 'zip'"),
    ("build-beam {photos} --out={out}", "{out}"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A model, and the classes a and b of 11 images and one file that is none."""
    photos = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index in range(11):
        path = photos / "ab"[index % 2] / f"{index // 2}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    (photos / "b/bad.png").write_bytes(b"no image")
    return {"photos": photos, "model": save_tiny_vit(tmp_path_factory.mktemp("run"))}


def test_every_command_is_tried():
    assert {line.split()[0] for line, _ in WRONG} == set(COMMANDS)


@pytest.mark.parametrize(("line", "words"), WRONG)
def test_a_refused_command_leaves_nothing_behind(
    line, words, places, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    before = sorted(path for place in places.values() for path in place.rglob("*"))
    out = tmp_path / "new"
    name, *arguments = (word.format(out=out, **places) for word in line.split())
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as stopped:
            importlib.import_module(COMMANDS[name].module).main(arguments)
    finally:
        signal.signal(signal.SIGTERM, handler)
    error = capsys.readouterr().err
    last = [x for x in error.splitlines() if x.startswith("error: ")]
    assert stopped.value.code == 2 and "Traceback" not in error
    if words != "{out}":
        assert words in error
    if words != "CONTRIBUTING" and not line.startswith("doctor"):  # it came that far
        assert "ignored, as it would change numbers or stop a step: JAX_ENABLE_X64=1\n" in error
    assert len(last) == 1 and error.endswith(f"{last[0]}\n")
    assert list(tmp_path.iterdir()) == []
    assert sorted(path for place in places.values() for path in place.rglob("*")) == before
