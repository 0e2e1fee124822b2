"""A run of each younger backbone, and what users do with it: embed, search, evaluate, look."""

import json

import numpy as np
import pytest

import dino_jax
from dino_jax.__main__ import main
from tests.evaluation.online_runs import write_images
from tests.run_train import SMALL, overrides

SHORT = {**SMALL, "epochs": 1.0, "batch_size": 8, "probes.count": 0}
BACKBONES = {
    "rope": {
        "network.backbone.position": "rope",
        "network.backbone.rope.rescale": 2.0,
        "network.backbone.patch_size": 8,
        "network.backbone.num_heads": 3,
    },
    # 32 pixels are one cell of 32.
    "convnext": {
        "network.backbone.kind": "convnext",
        "network.backbone.depths": (1, 1, 1, 1),
        "network.backbone.width": 8,
        "augment.crops.local.size": (32, 32),
    },
}
OF_VITS = (
    "network.backbone.embed_dim",
    "network.backbone.depth",
    "network.backbone.drop_path_rate",
)


def run(*arguments) -> int:
    """The exit code of a command."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


CONFIG = """from ml_collections import ConfigDict

from configs import quickstart


def get_config():
    config = quickstart.get_config()
    config.network.backbone = ConfigDict(dict(kind={kind!r}))
    return config
"""


@pytest.fixture(scope="module", params=BACKBONES)
def trained(request, tmp_path_factory):
    """Name of the backbone, workdir of a run of two steps, and a folder of photographs."""
    folder = tmp_path_factory.mktemp(request.param)
    changes = {**SHORT, **BACKBONES[request.param]}
    kind = changes.pop("network.backbone.kind", "vit")
    if kind != "vit":
        changes = {name: value for name, value in changes.items() if name not in OF_VITS}
    config = folder / "config.py"
    config.write_text(CONFIG.format(kind=kind))
    arguments = [f"--config={config}", f"--workdir={folder / 'run'}", *overrides(changes)]
    assert run("train", *arguments) == 0
    photos = write_images(folder / "photos", [f"{kind}/{i}.png" for kind in "ab" for i in range(6)])
    return request.param, folder / "run", photos


def test_its_vectors_are_those_of_the_library_and_of_the_index(trained, tmp_path, capsys):
    _, workdir, photos = trained
    assert run("embed", workdir, photos, f"--out={tmp_path / 'e'}", "--batch-size=8") == 0
    rows = np.concatenate([np.load(path) for path in sorted((tmp_path / "e").glob("*.npy"))])
    model = dino_jax.load(workdir)
    names = [
        json.loads(line)["name"]
        for path in sorted((tmp_path / "e").glob("images-*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    ours = model([f"{photos}/{photo}" for photo in names])["cls"]
    np.testing.assert_allclose(rows, ours, rtol=0, atol=1e-5)
    assert np.unique(rows.round(5), axis=0).shape[0] == 12
    assert run("search", "build", tmp_path / "i", workdir, f"--from={tmp_path / 'e'}") == 0
    capsys.readouterr()
    assert run("search", "query", tmp_path / "i", f"{photos}/{names[3]}", "-k", "1") == 0
    assert names[3] in capsys.readouterr().out


def test_it_is_evaluated_and_looked_at(trained, tmp_path, capsys):
    name, workdir, photos = trained
    options = ("--kind=digits", "--batch-size=256")
    assert run("evaluate", "knn", f"--checkpoint={workdir}", *options) == 0
    assert "knn10_top1" in capsys.readouterr().out
    photo = f"{photos}/a/0.png"
    out = f"--out={tmp_path / 'pictures'}"
    code = run("visualize", "attention", workdir, photo, out, "--size=64")
    assert code == (0 if name == "rope" else 2)
    code = run("visualize", "pca", workdir, photo, out, "--size=64")
    assert code == 0 and list((tmp_path / "pictures").glob("*"))
