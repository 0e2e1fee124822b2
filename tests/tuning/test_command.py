"""dino-jax tune on made vectors: what is handed out, what is refused, what search makes of it."""

import json
import shutil

import numpy as np
import pytest

from dino_jax.__main__ import main
from dino_jax.embedding.adapter import open_adapter
from dino_jax.search.index import open_index
from tests.run_train import run_processes
from tests.tuning.made_vectors import draw, save_embedded


def run(*arguments) -> int:
    """The exit code of a command."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as exit:
        return int(exit.code or 0)


def tune(source, out, *options) -> int:
    return run("tune", source, f"--out={out}", "--sku=label", "--epochs=60", "--skus=16", *options)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    return save_embedded(tmp_path_factory.mktemp("made") / "embedded")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, embedded):
    out = tmp_path_factory.mktemp("tuned") / "adapter"
    assert tune(embedded, out) == 0
    return out


def told(out) -> dict:
    return json.loads((out / "tuning.json").read_text())


def test_a_gain_on_held_out_products_is_handed_out(tuned):
    found = told(tuned)
    best = found["best"]
    assert found["handed_out"] and best["gain"]["low"] > 0
    assert best["recall_at_1"] > found["frozen_recall_at_1"] + 0.2
    assert {path.name for path in tuned.iterdir()} == {
        *("adapter.safetensors", "adapter.json", "tuning.json")
    }


def test_the_gain_holds_for_products_that_are_nowhere_in_the_source(tuned):
    adapter, _ = open_adapter(tuned)
    fresh = draw(80, 3, seed=5)
    labels = np.repeat(np.arange(80), 3)

    def recall(vectors):
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        similar = unit @ unit.T - 2 * np.eye(len(unit))
        return (labels[similar.argmax(axis=1)] == labels).mean()

    flat = fresh.reshape(-1, fresh.shape[-1])
    assert recall(adapter.rows(flat)) > recall(flat) + 0.2


@pytest.mark.parametrize("seed", range(3))
def test_shuffled_products_are_refused(tmp_path, capsys, embedded, seed):
    out = tmp_path / "out"
    assert tune(embedded, out, "--shuffle", f"--seed={seed}") == 1
    assert [path.name for path in out.iterdir()] == ["tuning.json"]
    assert not told(out)["handed_out"]
    assert "The frozen features stay" in capsys.readouterr().out


@pytest.mark.parametrize("loss", ["symmetric", "ntxent", "multi_similarity", "triplet", "arcface"])
def test_every_loss_learns(tmp_path, embedded, loss):
    assert tune(embedded, tmp_path / "out", f"--loss={loss}", "--lr=3e-3") == 0


def test_the_same_command_gives_the_same_adapter(tmp_path, embedded, tuned):
    assert tune(embedded, tmp_path / "again") == 0
    one, other = (open_adapter(folder)[0] for folder in (tuned, tmp_path / "again"))
    np.testing.assert_array_equal(one.weight, other.weight)


def test_two_processes_make_the_same_adapter(tmp_path, embedded, tuned):
    command = [
        str(embedded),
        f"--out={tmp_path / 'two'}",
        "--sku=label",
        "--epochs=60",
        "--skus=16",
    ]
    finished = run_processes(*command, processes=2, devices=2, module="dino_jax.tuning")
    assert [process.code for process in finished] == [0, 0], finished
    assert "is handed out" in finished[0].out and "Recall" not in finished[1].out
    one, other = (open_adapter(folder)[0] for folder in (tuned, tmp_path / "two"))
    np.testing.assert_allclose(one.weight, other.weight, atol=1e-3)
    recalls = [told(folder)["best"]["recall_at_1"] for folder in (tuned, tmp_path / "two")]
    np.testing.assert_allclose(*recalls, atol=0.021)


def test_search_takes_the_adapter_and_embeds_nothing(tmp_path, capsys, embedded, tuned):
    plain, first, second = tmp_path / "plain", tmp_path / "first", tmp_path / "second"
    assert run("search", "build", plain, f"--from={embedded}") == 0
    assert run("search", "build", first, f"--from={embedded}", f"--adapter={tuned}") == 0
    assert run("search", "build", second, f"--from={plain}", f"--adapter={tuned}") == 0
    rows = np.load(embedded / "embeddings-00000-of-00001.npy")
    wanted = open_adapter(tuned)[0].rows(rows)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    for place in (first, second):
        index = open_index(place)
        assert [row.label for _, row in index.rows()][::4][:2] == ["p000", "p001"]
        np.testing.assert_allclose(index.vectors(range(len(index))), wanted, atol=2e-3)
    capsys.readouterr()
    assert run("search", "evaluate", plain, "--label=label", f"--against={first}") == 0
    line = next(
        x for x in capsys.readouterr().out.splitlines() if x.startswith("  recall@1 ") and "[" in x
    )
    assert float(line.split()[1]) > 0.2


def test_an_index_of_adapted_vectors_is_not_tuned_again(tmp_path, capsys, embedded, tuned):
    place = tmp_path / "i"
    assert run("search", "build", place, f"--from={embedded}", f"--adapter={tuned}") == 0
    assert tune(place, tmp_path / "out") == 2
    assert "an adapter has changed already" in capsys.readouterr().err


def test_an_adapter_of_other_vectors_is_refused(tmp_path, capsys, tuned):
    other = save_embedded(tmp_path / "other")
    plan = json.loads((other / "embed.json").read_text())
    (other / "embed.json").write_text(json.dumps(plan | {"image_size": 64}))
    assert run("search", "build", tmp_path / "i", f"--from={other}", f"--adapter={tuned}") == 2
    error = capsys.readouterr().err
    assert "image_size: the adapter was tuned on 32, these have 64" in error


def test_a_damaged_adapter_is_refused(tmp_path, capsys, embedded, tuned):
    place = shutil.copytree(tuned, tmp_path / "copy")
    data = bytearray((place / "adapter.safetensors").read_bytes())
    data[-1] ^= 1
    (place / "adapter.safetensors").write_bytes(data)
    assert run("search", "build", tmp_path / "i", f"--from={embedded}", f"--adapter={place}") == 2
    assert "its checksum differs" in capsys.readouterr().err


def test_pairs_of_names_are_enough(tmp_path, embedded):
    lines = ["first,second\n"]
    lines += [f"p{i:03}/{j}.png,p{i:03}/{j + 1}.png\n" for i in range(60) for j in range(3)]
    (tmp_path / "pairs.csv").write_text("".join(lines))
    code = run(
        *("tune", embedded, f"--out={tmp_path / 'out'}", f"--pairs={tmp_path / 'pairs.csv'}"),
        *("--epochs=60", "--skus=16"),
    )
    assert code == 0 and told(tmp_path / "out")["loss"] == "symmetric"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b,c\n", "has 3 columns, not 2"),
        ("first,second\np000/0.png,nowhere.png\n", "line 2 names 'nowhere.png'"),
        ("first,second\n", "has no pairs"),
        ('"p000/0.png,x\n', "pairs.csv: line 1"),
    ],
)
def test_wrong_pairs_are_named(tmp_path, capsys, embedded, text, said):
    (tmp_path / "pairs.csv").write_text(text)
    pairs = f"--pairs={tmp_path / 'pairs.csv'}"
    assert run("tune", embedded, f"--out={tmp_path / 'out'}", pairs) == 2
    assert said in capsys.readouterr().err


def test_a_table_gives_products_and_categories(tmp_path, capsys, embedded):
    lines = [f"p{i:03}/{j}.png,article {i},kind {i % 5}\n" for i in range(60) for j in range(4)]
    (tmp_path / "table.csv").write_text("".join(["name,sku,kind\n", *lines]))
    code = run(
        *("tune", embedded, f"--out={tmp_path / 'out'}", "--sku=sku", "--epochs=60", "--skus=16"),
        *(f"--metadata={tmp_path / 'table.csv'}", "--category=kind", "--categories=2"),
    )
    assert code == 0
    assert "categories  5 of --category=kind, 2 in a batch" in capsys.readouterr().out


def spoil(folder):
    """The first photos of two products become the same."""
    path = folder / "embeddings-00000-of-00001.npy"
    vectors = np.load(path)
    vectors[4] = vectors[0] * 1.5
    np.save(path, vectors)
    return folder


def test_near_duplicates_of_different_products_have_to_be_looked_at(tmp_path, capsys):
    place, out = spoil(save_embedded(tmp_path / "e")), tmp_path / "out"
    assert tune(place, out) == 2
    assert "1 pairs of photos of different SKUs" in capsys.readouterr().err
    listed = (out / "near_duplicates.csv").read_text().splitlines()
    assert listed[1].split(",")[1:] == ["p000/0.png", "p000", "p001/0.png", "p001"]
    assert tune(place, out, "--merge") == 0
    assert told(out)["skus"] == {"learned": 47, "held_out": 12}
    assert tune(place, tmp_path / "other", "--ignore") == 0
    assert told(tmp_path / "other")["skus"] == {"learned": 48, "held_out": 12}


def test_a_second_start_does_not_overwrite(capsys, embedded, tuned):
    assert tune(embedded, tuned) == 2
    assert "exists and is not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sku=brand"], "it knows the sub-folders of the photos"),
        (["--sku=label", "--loss-option", "temperature"], "expected NAME=NUMBER"),
        (["--sku=label", "--loss-option", "temprature=1"], "did you mean 'temperature'?"),
        (["--sku=label", "--pairs=x.csv"], "Pass either --sku=COLUMN or --pairs=FILE"),
        ([], "Pass either --sku=COLUMN or --pairs=FILE"),
        (["--sku=label", "--merge", "--ignore"], "exclude each other"),
        (["--sku=label", "--loss=symmetric", "--photos=4"], "takes 2 photos of each SKU"),
    ],
)
def test_wrong_options_end_with_one_line(tmp_path, capsys, embedded, options, said):
    assert run("tune", embedded, f"--out={tmp_path / 'out'}", *options) == 2
    lines = capsys.readouterr().err.splitlines()
    assert said in lines[-1] and sum(line.startswith("error: ") for line in lines) == 1


def test_an_empty_folder_is_no_source(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert tune(tmp_path / "empty", tmp_path / "out") == 2
    assert "is neither an index of dino-jax search (no index.json) nor" in capsys.readouterr().err


def test_too_few_products_are_refused(tmp_path, capsys):
    place = save_embedded(tmp_path / "few", products=12)
    assert tune(place, tmp_path / "out") == 2
    assert "12 SKUs have at least two photos" in capsys.readouterr().err
