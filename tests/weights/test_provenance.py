"""Provenance of exported weights: written with every export, kept when they come back."""

import json
from pathlib import Path

import pytest

from dino_jax.weights import provenance
from dino_jax.weights.exporting import export_weights
from dino_jax.weights.importing import import_weights
from dino_jax.weights.model import load
from tests.saved_model import save_tiny_vit

DATA = {"config.data": {"images": 1438, "digest": "0123456789ab"}}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An export of a run whose images are known."""
    workdir = save_tiny_vit(tmp_path_factory.mktemp("run"))
    (workdir / "data.json").write_text(json.dumps(DATA))
    out = tmp_path_factory.mktemp("out") / "w.safetensors"
    lines = export_weights(str(workdir), str(out), "official")
    return workdir, out, lines


def read(path):
    return json.loads(Path(path).read_text())


def test_an_export_says_what_went_into_it(exported):
    workdir, out, lines = exported
    said = read(f"{out}.provenance.json")
    assert lines[-1] == f"provenance: {out}.provenance.json"
    assert said["files"] == {out.name: f"sha256 {provenance.sha256_of(out)}"}
    assert said["model"] == f"teacher of step 0 of {workdir}"
    assert said["weights"] == provenance.fingerprint(load(workdir).variables)
    assert (said["data"], said["sources"], said["format"]) == (DATA, [], 1)
    assert said["license"] == "yours to choose"
    assert {"dino_jax", "code of dino_jax", "jax", "Python"} <= said["code"].keys()


def test_the_chain_is_kept_on_import_and_export(exported, tmp_path):
    _, out, _ = exported
    lines = import_weights(out, tmp_path / "in", num_heads=1)
    assert any("provenance: kept, teacher of step 0" in line for line in lines)
    assert any("yours to choose (stated in its provenance)" in line for line in lines)
    export_weights(str(tmp_path / "in"), str(tmp_path / "again.safetensors"), "official")
    said = read(tmp_path / "again.safetensors.provenance.json")
    first = read(f"{out}.provenance.json")
    (source,) = said["sources"]
    assert source["path"] == str(out) and source["provenance"] == first
    assert said["weights"] == first["weights"]
    assert said["license"] == "yours to choose (stated in its provenance)"


def test_a_run_names_the_weights_that_it_started_from(exported, tmp_path):
    workdir, out, _ = exported
    import_weights(out, tmp_path / "in", num_heads=1)
    config = {"init_from": {"path": str(tmp_path / "in")}, "roles": {"a": {"path": str(workdir)}}}
    imported, run = provenance.sources_of("run", config)
    assert imported["license"].startswith("yours to choose")
    assert imported["sources"][0]["provenance"]["data"] == DATA
    assert (run["path"], run["data"], run["sources"]) == (str(workdir), DATA, [])
    gone = provenance.sources_of("run", {"init_from": {"path": str(tmp_path / "gone")}})
    assert gone[0]["note"].startswith("not there")


def test_runs_that_name_each_other_end(tmp_path):
    config = {"init_from": {"path": str(tmp_path)}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "too far back" in json.dumps(provenance.sources_of(str(tmp_path), config))


def test_a_provenance_of_other_bytes_is_left_out(exported, tmp_path):
    _, out, _ = exported
    (tmp_path / "w.safetensors").write_bytes(out.read_bytes())
    other = read(f"{out}.provenance.json") | {"files": {"w.safetensors": "sha256 00"}}
    (tmp_path / "w.safetensors.provenance.json").write_text(json.dumps(other))
    lines = import_weights(tmp_path / "w.safetensors", tmp_path / "in", num_heads=1)
    assert any("which is about other bytes" in line for line in lines)
    assert not (tmp_path / "in/provenance.json").exists()
    assert "unknown" in (tmp_path / "in/LICENSE.txt").read_text()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "it has no format"),
        ('{"format": "1"}', "it has no format"),
        ('{"format": 2}', "knows formats up to 1"),
        ('{"format": 1, "license": 3}', "its license is not a text"),
        ("[" * 100 + "]" * 100, "nested deeper"),
    ],
)
def test_a_damaged_provenance_is_named(text, words, tmp_path):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        provenance.read_provenance(tmp_path / "p.json")
