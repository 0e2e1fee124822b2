"""dino_jax.load: a trained backbone from a workdir or an official file."""

import json
import shutil
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import dino_jax
from configs import quickstart
from dino_jax.config.section import section
from dino_jax.models.backbone import ImplicitSettings
from dino_jax.models.build import NetworkConfig, build_network
from dino_jax.models.network import Network
from dino_jax.models.products import multiplies_bfloat16
from dino_jax.models.vision_transformer import VisionTransformer
from dino_jax.models.vit import SIZES
from dino_jax.step.recipe import build_recipe
from dino_jax.weights import to_torch
from dino_jax.weights.architecture import infer_backbone
from dino_jax.weights.dialects import to_official
from dino_jax.weights.weights_file import abstract_variables
from dino_jax.workdir import checkpointing
from dino_jax.workdir.config_json import config_to_json

GOLDEN = Path(__file__).parent.parent / "golden"
VITS = {
    "DINO": VisionTransformer(
        embed_dim=128, depth=2, num_heads=2, patch_size=8, image_size=(32, 32)
    ),
    "DINOv2 with registers and SwiGLU": VisionTransformer(
        embed_dim=64,
        depth=3,
        num_heads=1,
        patch_size=14,
        image_size=(56, 56),
        ffn="swiglu",
        layer_scale=1.0,
        registers=4,
        has_mask_token=True,
        position_kernel="antialiased",
    ),
}
NORMALISED = dict(dtype="float32", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), heads={})
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 42, 56, 3), np.uint8)


def make_variables(vit):
    network = Network(vit, {}, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    images = jnp.zeros((1, *vit.image_size, 3))
    return network, partial(network.init, method="init_all")(jax.random.key(1), images)


@pytest.mark.parametrize("name", VITS)
def test_an_official_file_shows_its_architecture(name, tmp_path):
    vit = VITS[name]
    network, variables = make_variables(vit)
    tensors = {k.removeprefix("backbone."): v for k, v in to_torch(variables).items()}
    save_file(tensors, tmp_path / "weights.safetensors")
    model = dino_jax.load(tmp_path / "weights.safetensors")
    for field in ("embed_dim", "depth", "num_heads", "patch_size", "image_size", "ffn"):
        assert getattr(model.network.backbone, field) == getattr(vit, field)
    expected, actual = network.apply(variables, PIXELS), model(PIXELS)
    assert set(actual) == set(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(actual[key], value, rtol=0, atol=1e-5)
    assert model.attention(PIXELS).shape[1] == vit.num_heads
    last, first = model.intermediate(PIXELS, (-1, 0))
    np.testing.assert_allclose(last["cls"], expected["cls"], rtol=0, atol=1e-5)
    assert not np.allclose(first["cls"], expected["cls"])


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of no steps."""
    folder = tmp_path_factory.mktemp("run")
    config = quickstart.get_config()
    config.network.backbone.update(embed_dim=24, depth=1)
    config.network.heads.dino.update(out_dim=16, hidden_dim=8, bottleneck_dim=8)
    state = jax.jit(build_recipe(config, 1438).init)(jax.random.key(0))
    teacher = jax.tree.map(lambda x: x + 0.1, state.networks["teacher"])
    state = state.replace(networks=state.networks | {"teacher": teacher})
    (folder / "config.json").write_text(config_to_json(config))
    checkpoints = checkpointing.open_checkpoints(folder, save_every_steps=1, keep=1)
    with checkpointing.closing(checkpoints):
        checkpointing.save(checkpoints, 0, state, force=True)
    return folder, config, state


def test_a_run_gives_its_teacher(workdir):
    folder, config, state = workdir
    model = dino_jax.load(folder)
    assert model.title == f"teacher of step 0 of {folder}" and model.image_size == 32
    network = build_network(config.network)
    for key, value in jax.jit(network.apply)(state.networks["teacher"], PIXELS).items():
        np.testing.assert_allclose(model(PIXELS)[key], value, rtol=0, atol=1e-5)


def test_a_model_computes_in_the_dtype_that_is_asked_for(workdir):
    folder, _, _ = workdir
    assert dino_jax.load(folder, dtype="float32").network.backbone.dtype == jnp.float32
    rounded = dino_jax.load(folder, dtype="bfloat16")
    assert rounded.network.backbone.rounds is multiplies_bfloat16()
    assert np.isfinite(rounded(PIXELS)["cls"]).all()
    assert rounded.title.endswith(", computed in bfloat16")
    with pytest.raises(ValueError, match=r"dtype is 'float16'; known: \['bfloat16', 'float32'\]"):
        dino_jax.load(folder, dtype="float16")


def test_a_folder_of_version_0_1_says_elsewhere_how_large_its_images_are(workdir, tmp_path):
    shutil.copytree(workdir[0], tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["knn"] = {"image_size": config.pop("image_size") + 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert dino_jax.load(tmp_path).image_size == 40


def test_paths_pillow_images_and_arrays_are_the_same_image(workdir, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS[0]).save(path)
    model = dino_jax.load(workdir[0])
    batch = model.preprocess([path, str(path), Image.open(path), PIXELS[0]])
    assert batch.shape == (4, 32, 32, 3) and (batch == batch[0]).all()
    np.testing.assert_array_equal(model([path])["cls"], model(batch[:1])["cls"])
    assert model.preprocess([path], size=48).shape == (1, 48, 48, 3)


def test_what_is_no_model_is_a_clear_error(tmp_path, workdir):
    with pytest.raises(FileNotFoundError, match="is neither the workdir of a run"):
        dino_jax.load(tmp_path)
    save_file({"conv2.weight": np.zeros((4, 3, 7, 7), np.float32)}, tmp_path / "r.safetensors")
    with pytest.raises(
        ValueError, match=r"r\.safetensors: neither a ViT of DINO, DINOv2 or DINOv3"
    ):
        dino_jax.load(tmp_path / "r.safetensors")
    with pytest.raises(ValueError, match="is for workdirs"):
        dino_jax.load(tmp_path / "r.safetensors", step=3)
    model = dino_jax.load(workdir[0])
    with pytest.raises(ValueError, match="put one image into a list"):
        model(PIXELS[0])
    with pytest.raises(ValueError, match="at least one image"):
        model([])
    with pytest.raises(ValueError, match=r"numbers are float32, .* set range to"):
        model([PIXELS[0].astype(np.float32)])


@pytest.mark.parametrize("name", ["small", "base", "large", "giant"])
@pytest.mark.parametrize("registers", [0, 4])
def test_all_released_vits_are_recognised(name, registers):
    kind = f"vit_{name}{'2' if name == 'giant' else ''}_reg{registers}"
    shapes = json.loads((GOLDEN / "v2" / "a_names_and_init.json").read_text())["hub_param_names"]
    names = {
        name.replace("blocks.0.", f"blocks.{block}."): shape  # the list has the first block only
        for name, shape in shapes[kind]["names"].items()
        for block in range(shapes[kind]["depth"])
    }
    tensors = {name: np.broadcast_to(np.float32(0), shape) for name, shape in names.items()}
    official = to_official(tensors)
    assert official.names == "official"
    assert official.position_kernel == ("antialiased" if registers else "bicubic")
    implicit = ImplicitSettings(
        position_kernel=official.position_kernel, norm_epsilon=official.norm_epsilon
    )
    vit = infer_backbone(tensors, implicit)
    assert (vit["embed_dim"], vit["depth"], vit["num_heads"]) == SIZES[name]
    assert (vit["patch_size"], vit["image_size"], vit["registers"]) == (14, (518, 518), registers)
    assert (vit["ffn"], vit["mlp_ratio"]) == ("swiglu" if name == "giant" else "mlp", 4.0)
    assert vit["has_mask_token"] and vit["layer_scale"] and vit["qkv_bias"]
    network = build_network(section("network", NORMALISED | {"backbone": vit}, NetworkConfig))
    like = abstract_variables(network, vit)
    assert sum(x.size for x in jax.tree.leaves(like)) == sum(x.size for x in tensors.values())


def test_the_package_has_nothing_else():
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        dino_jax.laod  # noqa: B018
