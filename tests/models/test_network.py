"""The builders of networks, and bfloat16 activations."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import quickstart, vits16_vanilla
from dino_jax.config.defaults import to_config_dict
from dino_jax.config.section import section
from dino_jax.models import resnet
from dino_jax.models import vit as vit_kind
from dino_jax.models.build import NetworkConfig, build_network
from tests.recorded_draws import recorded_subsets


def tiny_config(**backbone):
    config = quickstart.get_config().network
    config.backbone.update({"depth": 2, **backbone})
    config.heads.dino.update(out_dim=32)
    return config


def build(config):
    return build_network(section("config.network", config, NetworkConfig))


def init(network):
    """Values of the usual spread from NumPy, which compiles nothing."""
    init_all = partial(network.init, method="init_all")
    shapes = jax.eval_shape(init_all, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key in ("scale", "var"):
            return np.ones(leaf.shape, np.float32)
        return (0.02 * rng.normal(size=leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize(
    ("size", "patch", "parameters"),
    [
        ("tiny", 16, 5_524_416),
        ("tiny", 8, 5_526_720),
        ("small", 16, 21_665_664),
        ("small", 8, 21_670_272),
        ("base", 16, 85_798_656),
        ("base", 8, 85_807_872),
    ],
)
def test_parameter_counts_are_the_official_ones(size, patch, parameters):
    config = vits16_vanilla.get_config().network
    config.backbone.update(size=size, patch_size=patch)
    config.heads = {}
    network = build_network(config)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == parameters


def test_explicit_numbers_override_the_named_size():
    network = build_network(tiny_config(embed_dim=48, num_heads=4, image_size=(32, 48)))
    assert (network.backbone.embed_dim, network.backbone.num_heads) == (48, 4)
    assert init(network)["params"]["backbone"]["pos_embed"].shape == (1, 1 + 4 * 6, 48)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"size": "enormous", "depth": None},
            r"network.backbone.size is 'enormous'; known: \['7b', 'base', 'giant'",
        ),
        (
            {"kind": "swin"},
            r"network.backbone.kind is 'swin'; known: \['clip', 'convnext', 'resnet',",
        ),
        ({"position_kernel": "linear"}, "known: .'antialiased', 'bicubic'"),
        ({"remat": "some"}, "network.backbone.remat is 'some'"),
        ({"num_heads": 5}, r"embed_dim \(96\) must be a multiple of num_heads \(5\)"),
        ({"image_size": (4, 4)}, r"image_size \(4 x 4\) is smaller than one patch of 8 pixels"),
        ({"drop_path_rate": 1.0}, "drop_path_rate must be at least 0 and below 1, got 1"),
        ({"in_channels": 4}, "one value for each of the 4 channels"),
        ({"ffn": "moe"}, r"network.backbone.ffn is 'moe'; known: \['mlp', 'swiglu', 'swiglu1"),
        ({"drop_path_kind": "rows"}, r"known: \['per_sample', 'subset'\]"),
        ({"drop_path_schedule": "cosine"}, r"known: \['linear', 'uniform'\]"),
        ({"drop_path_kind": "subset"}, "needs drop_path_schedule='uniform', got 'linear'"),
        ({"drop_path_group": 0}, "drop_path_group must be at least 1, got 0"),
        ({"registers": -1}, "registers must be at least 0, got -1"),
        ({"scan_unroll": -1}, "scan_unroll must be at least 0, got -1"),
    ],
)
def test_a_wrong_backbone_is_a_clear_error(changes, message):
    with pytest.raises(ValueError, match=message):
        build(tiny_config(**changes))


def test_bfloat16_activations_stay_close_to_float32():
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    config = tiny_config()
    variables = init(build_network(config))
    outputs = {}
    for dtype in ("float32", "bfloat16"):
        config.dtype = dtype
        network = build_network(config)

        def compute(variables, network=network):
            cls = network.apply(variables, images)["cls"]
            head = network.apply(variables, "dino", cls, method="project", mutable=["batch_stats"])
            return cls.astype(jnp.float32), head[0]

        outputs[dtype] = jax.jit(compute)(variables)
    (cls, logits), (cls_16, logits_16) = outputs["float32"], outputs["bfloat16"]
    assert logits_16.dtype == jnp.float32
    np.testing.assert_allclose(cls_16, cls, rtol=0, atol=0.05)
    np.testing.assert_allclose(logits_16, logits, rtol=0, atol=0.02)
    assert not np.array_equal(cls_16, cls)


def test_attention_of_any_image_size_sums_to_one_over_the_keys():
    network = build_network(tiny_config())
    variables = init(network)
    images = np.zeros((2, 40, 24, 3), np.uint8)
    attention = jax.jit(partial(network.apply, layer=0, method="attention"))
    weights = attention(variables, images)
    assert weights.shape == (2, 3, 16, 16)
    np.testing.assert_allclose(np.sum(weights, -1), 1.0, rtol=1e-5)


def test_chosen_layers_come_in_the_asked_order_and_the_last_is_the_output():
    network = build_network(tiny_config())
    variables = init(network)
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    intermediate = jax.jit(partial(network.apply, layers=(-1, 0), method="intermediate"))
    last, first = intermediate(variables, images)
    output = jax.jit(network.apply)(variables, images)
    np.testing.assert_allclose(last["patches"], output["patches"], rtol=0, atol=1e-6)
    assert not np.allclose(first["cls"], last["cls"])


def test_every_option_of_the_config_reaches_the_vit():
    options = dict(
        ffn="swiglu",
        layer_scale=1e-5,
        registers=4,
        has_mask_token=True,
        token_std=1e-6,
        qkv_bias=False,
        proj_bias=False,
        ffn_bias=False,
        drop_path_rate=0.3,
        drop_path_schedule="uniform",
        drop_path_kind="subset",
        drop_path_group=8,
    )
    vit = build_network(tiny_config(**options)).backbone
    assert {name: getattr(vit, name) for name in options} == options
    names = [{field.name for field in dataclasses.fields(x)} for x in (vit, vit_kind.Config)]
    assert names[0] - {"dtype", "rounds", "by_cudnn", "branches", "parent", "name"} == names[1] - {
        "kind",
        "size",
    }


def test_masks_and_subsets_reach_the_backbone():
    options = dict(has_mask_token=True, drop_path_rate=0.5, drop_path_schedule="uniform")
    network = build_network(tiny_config(**options, drop_path_kind="subset"))
    variables = init(network)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    apply = jax.jit(network.apply)
    plain = apply(variables, images)["patches"]
    masked = apply(variables, images, np.eye(2, 16, dtype=bool))["patches"]
    assert not np.allclose(masked, plain)
    with recorded_subsets({2: np.zeros((2, 2, 1, 1), np.int32)}):  # only the first image is kept
        dropped = network.apply(variables, images, rngs={"drop_path": jax.random.key(0)})["patches"]
    assert not np.allclose(dropped[0], plain[0])
    params = variables["params"]["backbone"]
    embedded = network.backbone.apply(
        {"params": params}, network.normalize(images), method="embed"
    )[1, 1:]
    mean, var = embedded.mean(-1, keepdims=True), embedded.var(-1, keepdims=True)
    untouched = (embedded - mean) / np.sqrt(var + 1e-6) + params["norm"]["bias"]
    np.testing.assert_allclose(dropped[1], untouched, rtol=0, atol=1e-4)


def resnet_config(**changes):
    config = tiny_config()
    config.backbone = to_config_dict(resnet.Config())
    config.backbone.update(changes)
    return config


@pytest.mark.parametrize(("size", "depths"), [("50", (3, 4, 6, 3)), ("101", (3, 4, 23, 3))])
def test_a_resnet_has_the_depths_of_its_size(size, depths):
    backbone = build_network(resnet_config(size=size)).backbone
    assert (backbone.depths, backbone.width, backbone.embed_dim) == (depths, 64, 2048)


def test_a_resnet_tracks_statistics_of_backbone_and_head_pass_by_pass():
    network = build_network(resnet_config(depths=(1,), width=8))
    variables = init(network)
    assert set(variables["batch_stats"]) == {"backbone", "heads_dino"}
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)

    @jax.jit
    def train(variables):
        bound = network.bind(variables, mutable=["batch_stats"])
        cls = [bound(images)["cls"], bound(images[:, :16, :16])["cls"]]
        bound.project("dino", jnp.concatenate(cls))
        return bound.variables["batch_stats"]

    before, after = variables["batch_stats"], train(variables)
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), before, after)
    assert all(jax.tree.leaves(moved))
    still = jax.jit(network.apply)({**variables, "batch_stats": after}, images)
    assert still["patches"].shape == (4, 8 * 8, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "small"}, r"network.backbone.size is 'small'; known: \['101', '50'\]"),
        ({"depths": (1, 0)}, r"backbone.depths\[1\] must be at least 1, got 0"),
        ({"depths": ()}, r"depths \(\) must have a number for at least one stage"),
        ({"width": 0}, "backbone.width must be at least 1, got 0"),
    ],
)
def test_a_wrong_resnet_is_a_clear_error(changes, message):
    with pytest.raises(ValueError, match=message):
        build(resnet_config(**changes))


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("attention", (), "a ResNet has no attention weights"),
        ("intermediate", ((-2, -1),), r"features of its last layer only, use layers \(-1,\)"),
        ("__call__", (np.zeros((1, 1), bool),), "a ResNet has no mask token"),
        ("__call__", (None, np.zeros((1, 1), np.int32)), "a ResNet cannot leave patches out"),
    ],
)
def test_what_a_resnet_does_not_have_is_a_clear_error(method, arguments, message):
    network = build_network(resnet_config(depths=(1,), width=4))
    images = np.zeros((1, 16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: network.init(jax.random.key(0), images, *arguments, method=method))


def test_the_only_block_of_a_resnet_gives_its_features():
    network = build_network(resnet_config(depths=(1,), width=4))
    variables, images = init(network), np.ones((1, 16, 16, 3), np.uint8)
    expected = network.apply(variables, images)
    (got,) = network.apply(variables, images, (-1,), method="intermediate")
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_what_a_config_of_an_older_version_lacks_has_its_default():
    config = tiny_config()
    with config.unlocked():
        del config.backbone.norm_epsilon
    assert build(config).backbone.norm_epsilon == 1e-6


def heads_config(**of):
    heads = {name: {"kind": "mlp", "of": taken} for name, taken in of.items()}
    return tiny_config().to_dict() | {"heads": heads}


@pytest.mark.parametrize(
    ("of", "message"),
    [
        ({"predictor": "projektor"}, r"heads.predictor.of \('projektor'\) must be one of"),
        ({"a": "b", "b": "a", "c": "cls"}, "heads: a, b wait for each other's output"),
        ({"cls": "patches"}, "heads.cls: a head cannot have the name of a feature"),
    ],
)
def test_heads_that_take_what_is_not_there_are_a_clear_error(of, message):
    with pytest.raises(ValueError, match=message):
        build(heads_config(**of))


def test_a_head_takes_another_head_and_a_network_can_have_some_of_its_heads():
    config = tiny_config().to_dict()
    config["heads"] = {  # the predictor first: the order of the table does not matter
        "predictor": dict(kind="mlp", of="projector", hidden_dim=24, out_dim=8),
        "projector": dict(kind="mlp", of="patches", hidden_dim=20, out_dim=12),
    }
    network = build(config)
    params = init(network)["params"]
    kernels = {name: params[f"heads_{name}"]["linear_0"]["kernel"].shape for name in network.heads}
    assert kernels == {"projector": (96, 20), "predictor": (12, 24)}
    target = network.clone(heads={"projector": network.heads["projector"]})
    alone = init(target)["params"]
    assert alone.keys() == {"backbone", "heads_projector"}
    assert jax.tree.map(jnp.shape, alone) == jax.tree.map(jnp.shape, {k: params[k] for k in alone})
    with pytest.raises(ValueError, match=r"of \('projector'\) must be one of"):
        init(network.clone(heads={"predictor": network.heads["predictor"]}))


def test_the_name_of_a_size_is_not_needed_beside_its_numbers():
    network = build_network(tiny_config(size="mine", embed_dim=48, depth=2, num_heads=4))
    assert (network.backbone.embed_dim, network.backbone.depth) == (48, 2)
