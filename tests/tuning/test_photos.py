"""Tuning a network on photographs: LoRA, the last blocks and everything, on a made catalogue."""

import json

import jax
import numpy as np
import pytest

import dino_jax
from dino_jax.__main__ import main
from dino_jax.devices.sharding import make_mesh
from dino_jax.objectives.arcface import Arcface
from dino_jax.objectives.labelled import build_loss
from dino_jax.search.index import open_index
from dino_jax.search.photos import Photos
from dino_jax.tuning.linear import Recipe
from dino_jax.tuning.looks import Looks
from dino_jax.tuning.moved import move_all, move_last_blocks, move_low_rank
from dino_jax.tuning.network import NetworkCandidate, Settings
from tests.run_train import run_processes
from tests.saved_model import save_tiny_vit
from tests.tuning.made_photos import save_catalogue


def run(*arguments) -> int:
    """The exit code of a command."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as exit:
        return int(exit.code or 0)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with photos/, the model run/ and the index i/."""
    folder = tmp_path_factory.mktemp("catalogue")
    save_catalogue(folder / "photos", products=64, photos=4)
    (folder / "run").mkdir()
    save_tiny_vit(folder / "run", width=24)
    model, photos = folder / "run", folder / "photos"
    assert run("search", "build", folder / "i", model, photos, "--batch-size=64") == 0
    return folder


def tune(place, out, *options) -> int:
    return run(
        *("tune", place / "i", f"--out={out}", "--sku=label", "--held-out=0.4", "--ignore"),
        *("--skus=16", "--evaluations=1", *options),
    )


@pytest.fixture(scope="module")
def tuned(place, tmp_path_factory):
    """A model that learned all it can."""
    out = tmp_path_factory.mktemp("tuned") / "all"
    assert tune(place, out, "--what=all", "--lr=5e-3", "--epochs=120") == 0
    return out


def parameters(model) -> dict:
    return dino_jax.load(model).variables["params"]["backbone"]


def test_the_tuned_model_finds_more_and_is_one_as_any_other(place, tuned, tmp_path, capsys):
    told = json.loads((tuned / "tuning.json").read_text())
    assert told["handed_out"] and told["best"]["gain"]["low"] > 0
    new = tmp_path / "i"
    assert run("search", "build", new, tuned, place / "photos", "--batch-size=64") == 0
    capsys.readouterr()
    options = ("--label=label", f"--against={new}")
    assert run("search", "evaluate", place / "i", *options) == 0
    lines = capsys.readouterr().out.splitlines()
    gains = next(line for line in lines if line.startswith("  recall@1 ") and "[" in line)
    assert float(gains.split()[1]) > 0.05
    photo = place / "photos/p003/1.png"
    assert run("search", "query", new, photo, "-k", 3) == 0
    assert "p003/1.png" in capsys.readouterr().out
    exported = tmp_path / "tuned.safetensors"
    assert run("export", tuned, f"--out={exported}", "--names=official") == 0
    assert "checked: read again, every number is the same" in capsys.readouterr().out
    provenance = json.loads((tuned / "provenance.json").read_text())
    assert provenance["tuned"]["loss"] == "supcon"


def test_two_processes_hand_out_a_model_that_finds_as_much(place, tuned, tmp_path):
    finished = run_processes(
        *(str(place / "i"), f"--out={tmp_path / 'two'}", "--sku=label", "--held-out=0.4"),
        *("--ignore", "--skus=16", "--evaluations=1", "--what=all", "--lr=5e-3", "--epochs=120"),
        **dict(processes=2, devices=1, module="dino_jax.tuning"),
    )
    assert [process.code for process in finished] == [0, 0], finished
    recalls = [
        json.loads((folder / "tuning.json").read_text())["best"]["recall_at_1"]
        for folder in (tuned, tmp_path / "two")
    ]
    np.testing.assert_allclose(*recalls, atol=0.041)
    photo = [str(place / "photos" / "p000" / "0.png")]
    assert np.isfinite(dino_jax.load(tmp_path / "two")(photo)["cls"]).all()


def test_shuffled_products_are_refused(place, tmp_path):
    out = tmp_path / "out"
    assert tune(place, out, "--what=all", "--lr=5e-3", "--epochs=10", "--shuffle") == 1
    assert [path.name for path in out.iterdir() if path.suffix != ".csv"] == ["tuning.json"]


MOVES = {
    "lora": lambda base: move_low_rank(base, 4, 8.0, seed=0),
    "blocks": lambda base: move_last_blocks(base, 1, layer_decay=1.0),
    "all": lambda base: move_all(base, layer_decay=0.8),
}


def learn(place, what: str, loss: str, devices: int, steps: int) -> list[float]:
    """Losses of steps on the same photographs of 8 products."""
    names = [f"p{i:03}/{j}.png" for i in range(8) for j in range(4)]
    model = dino_jax.load(place / "run")
    moved = MOVES[what](model.variables["params"]["backbone"])
    looks = Looks(Photos(str(place / "photos")), names, model.view, 32, 10**6, threads=4)
    objective = build_loss(loss, {})
    vectors = 8 * objective.centers if isinstance(objective, Arcface) else 0
    settings = Settings(objective, vectors, Recipe(3e-3, 0.0), batch=8, seed=0)
    mesh = make_mesh(1, jax.devices()[:devices])
    candidate = NetworkCandidate(model, moved, looks, settings, mesh)
    labels = np.repeat(np.arange(8, dtype=np.int32), 4)
    return [candidate.step(step, np.arange(32), labels)["loss"] for step in range(steps)]


@pytest.mark.parametrize(
    ("what", "loss"), [("lora", "supcon"), ("blocks", "triplet"), ("all", "arcface")]
)
def test_whatever_moves_learns(place, what, loss):
    losses = learn(place, what, loss, devices=1, steps=30)
    assert np.isfinite(losses).all() and np.mean(losses[-5:]) < np.mean(losses[:5])


def test_of_a_product_with_one_photo_two_crops_are_a_pair(tmp_path, capsys):
    """With the symmetric loss; others leave it out."""
    save_catalogue(tmp_path / "photos", products=40, photos=2)
    for product in range(10):
        (tmp_path / "photos" / f"p{product:03}" / "1.png").unlink()
    (tmp_path / "run").mkdir()
    save_tiny_vit(tmp_path / "run", width=24)
    run("search", "build", tmp_path / "i", tmp_path / "run", tmp_path / "photos", "--batch-size=64")
    options = ("--what=blocks", "--blocks=1", "--epochs=1", "--held-out=0.4")
    for loss, said in (
        (
            "symmetric",
            "SKUs        28 to learn from (46 photos), 12 held out (24 photos); of 10 with",
        ),
        (
            "supcon",
            "SKUs        18 to learn from (36 photos), 12 held out (24 photos); 10 with one",
        ),
    ):
        capsys.readouterr()
        assert tune(tmp_path, tmp_path / loss, f"--loss={loss}", *options) in (0, 1)
        assert said in capsys.readouterr().out


def test_four_devices_learn_what_one_does(place):
    one, four = (learn(place, "all", "supcon", devices, steps=4) for devices in (1, 4))
    np.testing.assert_allclose(one, four, rtol=1e-4)


def test_nothing_else_of_the_backbone_moves(place):
    base = parameters(place / "run")
    moved = move_last_blocks(base, 1, layer_decay=1.0)
    changed = moved.spread(jax.tree.map(lambda x: x + 1, moved.first), base)
    for (path, new), old in zip(
        jax.tree_util.tree_leaves_with_path(changed), jax.tree.leaves(base), strict=True
    ):
        difference = np.asarray(new) - np.asarray(old)
        name = jax.tree_util.keystr(path)
        if name.startswith("['blocks']"):
            assert (difference[:-1] == 0).all() and np.allclose(difference[-1], 1), name
        else:
            assert np.allclose(difference, 1 if name.startswith("['norm']") else 0), name


def test_the_first_low_rank_network_is_the_frozen_one_and_merges_as_the_paper_says(place):
    base = parameters(place / "run")
    moved = move_low_rank(base, 4, 8.0, seed=0)
    for new, old in zip(
        *map(jax.tree.leaves, (moved.spread(moved.first, base), base)), strict=True
    ):
        np.testing.assert_array_equal(new, old)
    rng = np.random.default_rng(0)
    parts = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), moved.first)
    kernel = np.asarray(base["blocks"]["attention"]["qkv"]["kernel"], np.float64)
    found = np.asarray(moved.spread(parts, base)["blocks"]["attention"]["qkv"]["kernel"])
    x = rng.normal(size=24)
    for name, start in (("query", 0), ("value", 48)):
        a, b = (parts[name][side][1].astype(np.float64) for side in "ab")
        wanted = x @ kernel[1][:, start : start + 24] + 8 / 4 * (x @ a) @ b
        np.testing.assert_allclose(x @ found[1][:, start : start + 24], wanted, rtol=1e-4)
    np.testing.assert_array_equal(found[..., 24:48], kernel[..., 24:48])


def test_rates_fall_from_block_to_block(place):
    factors = move_all(parameters(place / "run"), layer_decay=0.5).factors
    np.testing.assert_allclose(np.ravel(factors["blocks"]["norm1"]["bias"]), [0.25, 0.5])
    assert factors["patch_embed"]["bias"] == 0.125 and factors["norm"]["bias"] == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--what=blocks", "--blocks=3"), "--blocks=3: the network has 2 blocks"),
        (("--what=lora", "--rank=25"), "--rank=25: the network is 24 wide"),
        (("--what=all", "--photo-folder=/nowhere"), "is not in /nowhere"),
        (("--what=all", "--batch-size=9"), "--batch-size=9 must be a multiple of"),
    ],
)
def test_what_does_not_fit_is_said(place, tmp_path, capsys, options, said):
    assert tune(place, tmp_path / "out", *options) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_the_index_follows_the_model_that_it_was_built_with(place, tuned):
    index = open_index(place / "i")
    assert len(index) == 256 and index.manifest.origin.path.endswith("run")
