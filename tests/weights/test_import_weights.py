"""Weights of other code bases in and out, without any of those code bases."""

import dataclasses
import json
import subprocess
import sys
from functools import partial

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from safetensors.numpy import load_file, save_file

import dino_jax
from configs import quickstart
from dino_jax.config.defaults import to_config_dict
from dino_jax.models import mlp_head, resnet
from dino_jax.models.build import build_network
from dino_jax.step.recipe import build_recipe
from dino_jax.weights import to_torch
from dino_jax.weights.exporting import _licence as licence_of_export
from dino_jax.weights.exporting import export_weights
from dino_jax.weights.import_weights import main
from dino_jax.weights.importing import import_weights
from dino_jax.weights.init_from import load_first_weights
from dino_jax.weights.weights_file import abstract_variables
from tests.saved_model import save_model
from tests.weights.torch_files import pickled, save, write

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 42, 56, 3), np.uint8)
DINO = dict(embed_dim=64, depth=2, patch_size=8, image_size=(32, 32))
DINOV2 = dict(embed_dim=64, depth=2, patch_size=14, image_size=(56, 56), layer_scale=1.0)
DINOV2 |= dict(has_mask_token=True)
REGISTERS = DINOV2 | dict(registers=4, position_kernel="antialiased", ffn="swiglu")
HEAD = dict(
    kind="dino", of="cls", out_dim=256, hidden_dim=24, bottleneck_dim=8, layers=3, batch_norm=False
)


def random_network(backbone, heads=(), seed=0):
    """A network of ours and random variables for it."""
    config = quickstart.get_config().network
    config.backbone.update(num_heads=1, **backbone)
    config.dtype = "float32"
    config.heads = ConfigDict(
        {name: dict(HEAD, train_gain=False, last_layer="prototypes") for name in heads}
    )
    network = build_network(config)
    like = abstract_variables(network, config.backbone)
    rng = np.random.default_rng(seed)
    return network, jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), like)


def backbone_tensors(variables):
    return {n.removeprefix("backbone."): x for n, x in to_torch(variables).items()}


def assert_same_features(model, network, variables):
    expected = jax.jit(network.apply)(variables, PIXELS)
    got = model(PIXELS)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize("backbone", [DINO, DINOV2, REGISTERS], ids=["dino", "dinov2", "registers"])
def test_an_official_file_becomes_a_folder_with_the_same_features(tmp_path, backbone):
    network, variables = random_network(backbone)
    save(tmp_path / "w.pth", backbone_tensors(variables))
    said = "\n".join(import_weights(tmp_path / "w.pth", tmp_path / "imported"))
    assert "official names" in said and "(assumed: 64 channels each)" in said
    assert_same_features(dino_jax.load(tmp_path / "imported"), network, variables)
    export_weights(str(tmp_path / "imported"), str(tmp_path / "o.safetensors"), "official")
    again = load_file(tmp_path / "o.safetensors")
    assert again.keys() == backbone_tensors(variables).keys()
    for name, tensor in backbone_tensors(variables).items():
        np.testing.assert_array_equal(again[name], tensor, err_msg=name)


def full_checkpoint(path, student, teacher, center):
    """What DINO's main_dino.py saves."""
    ours = {f"module.{name}": x for name, x in to_torch(student).items()}
    args = b"cargparse\nNamespace\n)\x81" + pickled({"arch": "vit_small", "epochs": 3}) + b"b"
    moments = {"state": {0: {"exp_avg": np.zeros(3, np.float32)}}}
    content = {"student": ours, "teacher": to_torch(teacher), "optimizer": moments, "args": args}
    save(path, content | {"epoch": 3, "dino_loss": {"center": center[None]}})


def test_a_full_checkpoint_starts_both_networks_heads_and_center(tmp_path):
    backbone = dict(embed_dim=64, depth=2, patch_size=4, image_size=(16, 16))
    _, student = random_network(backbone, ["dino"], seed=1)
    _, teacher = random_network(backbone, ["dino"], seed=2)
    center = np.random.default_rng(3).normal(size=256).astype(np.float32)
    full_checkpoint(tmp_path / "full.pth", student, teacher, center)
    said = "\n".join(import_weights(tmp_path / "full.pth", tmp_path / "imported"))
    assert "head dino: 3 layers, 24 wide, bottleneck 8, 256 prototypes, gain 1" in said
    assert "left out: 1 tensors of the optimizer, the student" in said
    assert "center dino: 256 numbers" in said
    config = quickstart.get_config()
    config.network.backbone.update(num_heads=1, **backbone)
    config.network.heads.dino.update(HEAD)
    for path in ("imported", "full.pth"):
        config.init_from.path = str(tmp_path / path)
        recipe = build_recipe(config, 1438)
        abstract = jax.eval_shape(recipe.init, jax.random.key(0))
        first = load_first_weights(config.init_from, abstract, recipe.network.backbone, tmp_path)
        assert "FRESH" not in "\n".join(first.lines)
        assert "center of dino: imported" in "\n".join(first.lines)
        one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shardings = jax.tree.map(lambda _, one=one: one, abstract)
        state = jax.device_get(first.init(recipe.init, jax.random.key(0), shardings))
        wanted = flatten_dict(teacher)
        for network in state.networks.values():
            got = flatten_dict(network)
            assert got.keys() == wanted.keys()
            for name, value in wanted.items():
                np.testing.assert_array_equal(got[name], value, err_msg=str(name))
        np.testing.assert_array_equal(state.objectives["dino"]["center"], center)


def test_the_student_of_a_full_checkpoint_can_be_chosen(tmp_path):
    network, student = random_network(DINO, ["dino"], seed=1)
    _, teacher = random_network(DINO, ["dino"], seed=2)
    full_checkpoint(tmp_path / "full.pth", student, teacher, np.zeros(256, np.float32))
    import_weights(tmp_path / "full.pth", tmp_path / "imported", role="student")
    assert_same_features(dino_jax.load(tmp_path / "imported"), network, student)
    export_weights(
        str(tmp_path / "imported"), str(tmp_path / "out.safetensors"), "official", heads=True
    )
    again, wanted = load_file(tmp_path / "out.safetensors"), to_torch(student)
    assert again.keys() == wanted.keys() and "head.last_layer.weight_g" in again
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(again[name], tensor, err_msg=name)
    save_file(backbone_tensors(random_network(DINO)[1]), tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="holds no student, but: weights"):
        import_weights(tmp_path / "b.safetensors", tmp_path / "none", role="student")


def test_chunked_names_of_dinov2_and_both_of_its_heads_are_read(tmp_path):
    network, variables = random_network(DINOV2, ["dino", "ibot"])
    tensors = to_torch(variables)
    chunked = {
        name.replace("backbone.blocks.", "backbone.blocks.0."): x for name, x in tensors.items()
    }
    save(tmp_path / "teacher.pth", {"teacher": chunked})
    said = "\n".join(import_weights(tmp_path / "teacher.pth", tmp_path / "imported"))
    assert "head dino:" in said and "head ibot:" in said and "2 blocks of width 64" in said
    assert_same_features(dino_jax.load(tmp_path / "imported"), network, variables)


def test_names_of_timm_give_the_same_features(tmp_path):
    """timm folds the position of the cls token into it, packs SwiGLU and has no mask token."""
    network, variables = random_network(REGISTERS)
    tensors = backbone_tensors(variables)
    tensors["reg_token"] = tensors.pop("register_tokens")
    positions = tensors.pop("pos_embed")
    tensors["cls_token"] = tensors["cls_token"] + positions[:, :1]
    tensors |= {"pos_embed": positions[:, 1:], "head.weight": np.ones((5, 64), np.float32)}
    del tensors["mask_token"]
    renamed = {
        name.replace(".w12.", ".fc1.").replace(".w3.", ".fc2."): np.ascontiguousarray(x)
        for name, x in tensors.items()
    }
    save_file(renamed, tmp_path / "timm.safetensors")
    said = "\n".join(import_weights(tmp_path / "timm.safetensors", tmp_path / "imported"))
    assert "timm names" in said and "left out: head.weight" in said and "4 registers" in said
    assert_same_features(dino_jax.load(tmp_path / "imported"), network, variables)


def test_a_resnet_becomes_a_folder_with_the_same_features(tmp_path):
    config = quickstart.get_config().network
    sizes = to_config_dict(resnet.Config(depths=(1, 2), width=8))
    config.update(dtype="float32", heads=ConfigDict())
    config.backbone = sizes
    network = build_network(config)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: rng.uniform(0.1, 0.5, x.shape).astype(np.float32),
        abstract_variables(network, sizes),
    )
    save_file(backbone_tensors(variables), tmp_path / "dino_resnet50_pretrain.safetensors")
    said = import_weights(tmp_path / "dino_resnet50_pretrain.safetensors", tmp_path / "imported")
    assert "ResNet, (1, 2) blocks, width 8" in "\n".join(said)
    assert_same_features(dino_jax.load(tmp_path / "imported"), network, variables)


def licence_of(file, out, **options):
    import_weights(file, out, **options)
    kept = json.loads((out / "config.json").read_text())["imported"]["licence"]
    assert kept in (out / "LICENSE.txt").read_text()
    return kept


def test_the_licence_is_found_or_said_to_be_unknown_and_kept(tmp_path):
    tensors = backbone_tensors(random_network(DINO)[1])
    save_file(tensors, tmp_path / "mine.safetensors")
    save_file(tensors, tmp_path / "dinov2_vits14_reg4_pretrain.safetensors")
    (tmp_path / "hub").mkdir()
    save_file(tensors, tmp_path / "hub/model.safetensors")
    (tmp_path / "hub/README.md").write_text("---\ntags:\n- dino\nlicense: cc-by-nc-4.0\n---\n# A\n")
    mine, hub = tmp_path / "mine.safetensors", tmp_path / "hub/model.safetensors"
    assert licence_of(mine, tmp_path / "1") == "unknown, check the source of the file"
    assert licence_of(mine, tmp_path / "2", licence="MIT") == "MIT (--license)"
    assert licence_of(hub, tmp_path / "3") == "cc-by-nc-4.0 (stated in README.md beside the file)"
    released = licence_of(tmp_path / "dinov2_vits14_reg4_pretrain.safetensors", tmp_path / "4")
    assert released.startswith("Apache-2.0 (that of facebookresearch/dinov2")


def test_files_beside_the_weights_say_what_shapes_do_not_show(tmp_path):
    _, variables = random_network(DINO | dict(embed_dim=48))
    save_file(backbone_tensors(variables), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"the width 48 is not a multiple of 64.*with --num-heads"):
        import_weights(tmp_path / "w.safetensors", tmp_path / "none")
    with pytest.raises(ValueError, match=r"width 48 is not a multiple of num_heads \(5\)"):
        import_weights(tmp_path / "w.safetensors", tmp_path / "none", num_heads=5)
    import_weights(tmp_path / "w.safetensors", tmp_path / "given", num_heads=3)
    assert dino_jax.load(tmp_path / "given").network.backbone.num_heads == 3
    card = {"num_attention_heads": 4, "layer_norm_eps": 1e-5, "hidden_act": "gelu"}
    (tmp_path / "config.json").write_text(json.dumps(card))
    pixels = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.5, 0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels))
    import_weights(tmp_path / "w.safetensors", tmp_path / "found")
    network = dino_jax.load(tmp_path / "found").network
    assert (network.backbone.num_heads, network.backbone.norm_epsilon) == (4, 1e-5)
    assert (network.mean, network.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    (tmp_path / "config.json").write_text(json.dumps(card | {"hidden_act": "quick_gelu"}))
    with pytest.raises(ValueError, match="says hidden_act='quick_gelu'"):
        import_weights(tmp_path / "w.safetensors", tmp_path / "none")


def test_tensors_that_do_not_fit_are_all_listed_and_nothing_is_written(tmp_path):
    tensors = backbone_tensors(random_network(DINO)[1])
    del tensors["blocks.1.attn.qkv.weight"], tensors["norm.bias"]
    tensors |= {"norm.weight": np.zeros(3, np.float32), "extra.weight": np.zeros(3, np.float32)}
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(ValueError) as caught:
        import_weights(tmp_path / "w.safetensors", tmp_path / "none")
    said = str(caught.value)
    for part in (
        "w.safetensors: the state dict",
        "missing backbone.blocks.1.attn.qkv.weight",
        "missing backbone.norm.bias",
        "shape of backbone.norm.weight: the file has (3,), the network (64,)",
        "unused backbone.extra.weight",
    ):
        assert part in said
    assert not (tmp_path / "none").exists()


def run(capsys, *arguments):
    """Exit code and last line of the error of the command."""
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, arguments)])
    return stopped.value.code, capsys.readouterr().err


def test_wrong_files_and_folders_end_with_exit_code_2_and_one_message(tmp_path, capsys):
    good = tmp_path / "good.safetensors"
    save_file(backbone_tensors(random_network(DINO)[1]), good)
    out = f"--out={tmp_path / 'out'}"
    code, said = run(capsys, tmp_path / "none.pth", out)
    assert code == 2 and "none.pth does not exist" in said
    whole = save(tmp_path / "w.pth", {"a": np.zeros(9, np.float32)}).read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[:-30])
    code, said = run(capsys, tmp_path / "cut.pth", out)
    assert code == 2 and "is truncated" in said
    write(tmp_path / "evil.pth", b"cposix\nsystem\n" + pickled(("touch trace",)) + b"R")
    code, said = run(capsys, tmp_path / "evil.pth", out)
    assert code == 2 and "asks for posix.system" in said
    (tmp_path / "text.pth").write_text("not weights")
    code, said = run(capsys, tmp_path / "text.pth", out)
    assert code == 2 and "it is not a file of torch.save" in said
    code, said = run(capsys, tmp_path / "w.onnx", out)
    assert code == 2 and "known suffixes: .safetensors, .safetensors.index.json, .pth" in said
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    code, said = run(capsys, good, out)
    assert code == 2 and "exists and is not empty; choose a new folder" in said
    assert [x.name for x in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_larger_backbone_than_that_of_the_config_is_a_list_of_shapes(tmp_path):
    _, variables = random_network(dict(embed_dim=128, depth=2, patch_size=4, image_size=(16, 16)))
    save(tmp_path / "vitb.pth", backbone_tensors(variables))
    config = quickstart.get_config()
    config.network.backbone.update(embed_dim=64, depth=2, num_heads=1)
    config.init_from.path = str(tmp_path / "vitb.pth")
    recipe = build_recipe(config, 1438)
    abstract = jax.eval_shape(recipe.init, jax.random.key(0))
    with pytest.raises(ValueError) as caught:
        load_first_weights(config.init_from, abstract, recipe.network.backbone, tmp_path)
    lines = str(caught.value).splitlines()
    # 12 tensors in each of two blocks, and 6 around them.
    assert "vitb.pth" in lines[0] and len(lines) == 1 + 2 * 12 + 6
    assert (
        "  shape of backbone.cls_token: the file has (1, 1, 128), the network (1, 1, 64)" in lines
    )


def test_exports_that_cannot_be_are_refused(tmp_path):
    model = str(tmp_path / "w.safetensors")
    save_file(backbone_tensors(random_network(DINO)[1]), model)
    official = partial(export_weights, model, names="official")
    with pytest.raises(ValueError, match=r"must end in \.safetensors or \.pth"):
        official(out=str(tmp_path / "a.npz"))
    with pytest.raises(ValueError, match="already exists; choose a new place"):
        official(out=model)
    with pytest.raises(ValueError, match=r"--heads: .* has no heads for which there are off"):
        official(out=str(tmp_path / "a.safetensors"), heads=True)
    with pytest.raises(FileNotFoundError, match="is not the workdir of a run"):
        export_weights(str(tmp_path), str(tmp_path / "a.safetensors"), "official")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config\.json already exists"):
        export_weights(model, str(tmp_path / "a.safetensors"), "huggingface")
    (tmp_path / "config.json").unlink()
    without = backbone_tensors(random_network(REGISTERS | dict(layer_scale=0.0))[1])
    save_file(without, tmp_path / "r.safetensors")
    with pytest.raises(ValueError, match="cannot have registers without LayerScale; use --names=o"):
        export_weights(str(tmp_path / "r.safetensors"), str(tmp_path / "hf"), "huggingface")
    assert not (tmp_path / "hf").exists() and not (tmp_path / "a.safetensors").exists()


def test_a_file_that_was_not_written_right_is_found_and_removed(tmp_path, monkeypatch):
    model = str(tmp_path / "w.safetensors")
    save_file(backbone_tensors(random_network(DINO)[1]), model)

    def write_badly(tensors, target, licence):
        qkv = "encoder.layer.1.attention.attention.query.weight"
        save_file(tensors | {qkv: tensors[qkv] + 1e-3}, target)

    monkeypatch.setattr("dino_jax.weights.exporting._write", write_badly)
    with pytest.raises(ValueError, match=r"does not read back as it was written: .*'qkv', 'ker"):
        export_weights(model, str(tmp_path / "hf"), "huggingface")
    assert not (tmp_path / "hf").exists()


def test_a_pth_without_torch_says_what_to_do(tmp_path, monkeypatch):
    model = str(tmp_path / "w.safetensors")
    save_file(backbone_tensors(random_network(DINO)[1]), model)
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    with pytest.raises(ValueError, match=r"torch, which is not installed; give --out a \.safe"):
        export_weights(model, str(tmp_path / "out.pth"), "official")
    assert not (tmp_path / "out.pth").exists()


def test_different_resampling_in_transformers_is_noted(tmp_path):
    model = str(tmp_path / "w.safetensors")
    save_file(backbone_tensors(random_network(DINO)[1]), model)
    said = "\n".join(export_weights(model, str(tmp_path / "hf"), "huggingface"))
    assert "transformers resamples positions with 'bicubic_plain', this model with 'b" in said
    back = export_weights(
        str(tmp_path / "hf/model.safetensors"), str(tmp_path / "b.safetensors"), "official"
    )
    first, again = load_file(model), load_file(tmp_path / "b.safetensors")
    assert first.keys() == again.keys() and not any("note:" in line for line in back)
    for name, tensor in first.items():
        np.testing.assert_array_equal(again[name], tensor, err_msg=name)


def test_a_run_that_continued_from_other_weights_is_exported_with_a_word_about_their_licence():
    none = {"init_from": {"path": ""}, "roles": {"student": {"path": ""}}}
    assert licence_of_export(none) == "yours to choose"
    continued = none | {"init_from": {"path": "w.pth"}}
    assert licence_of_export(continued) == "yours to choose, but respect that of w.pth"
    assert licence_of_export({"imported": {"licence": "MIT"}}) == "MIT"


def test_both_commands_say_how_they_are_used():
    for name in ("import", "export"):
        command = [sys.executable, "-m", "dino_jax", name, "--help"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert f"usage: dino-jax {name}" in said and "--out" in said


def test_heads_without_official_names_are_left_out_with_a_line(tmp_path):
    config = quickstart.get_config()
    config.network.backbone.update(embed_dim=24, depth=1)
    config.network.heads.projector = ConfigDict(dataclasses.asdict(mlp_head.Config(out_dim=8)))
    model = save_model(tmp_path, config)
    target = tmp_path / "out.safetensors"
    lines = export_weights(str(model), str(target), "official", heads=True)
    assert "left out: head projector, official names have no such head" in lines
    names = load_file(target).keys()
    assert "head.last_layer.weight_v" in names and not any("projector" in name for name in names)
