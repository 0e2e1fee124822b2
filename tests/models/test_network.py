"""The builders of networks, and bfloat16 activations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import quickstart, vits16_vanilla
from dino_jax.models.network import build_network


def tiny_config(**backbone):
    config = quickstart.get_config().network
    config.backbone.update(depth=2, **backbone)
    config.heads.dino.update(out_dim=32)
    return config


def init(network, size=32):
    images = jnp.zeros((1, size, size, 3))
    return jax.jit(lambda key: network.init(key, images, method="init_all"))(jax.random.key(0))


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
        ({"size": "huge"}, r"unknown network.backbone.size 'huge'; known: \['base', 'giant'"),
        ({"kind": "swin"}, "unknown network.backbone 'swin'; known"),
        ({"position_kernel": "linear"}, "known: .'antialiased', 'bicubic'"),
        ({"remat": "some"}, "unknown network.backbone.remat 'some'"),
        ({"num_heads": 5}, r"embed_dim \(96\) must be a multiple of num_heads \(5\)"),
        ({"image_size": (4, 4)}, "4 x 4 is smaller than one patch of 8 pixels"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate \(1.0\) in \[0, 1\)"),
        ({"in_channels": 4}, "one value for each of the 4 channels"),
    ],
)
def test_a_wrong_backbone_is_a_clear_error(changes, message):
    with pytest.raises(ValueError, match=message):
        build_network(tiny_config(**changes))


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
    weights = network.apply(variables, images, layer=0, method="attention")
    assert weights.shape == (2, 3, 16, 16)
    np.testing.assert_allclose(np.sum(weights, -1), 1.0, rtol=1e-5)


def test_chosen_layers_come_in_the_asked_order_and_the_last_is_the_output():
    network = build_network(tiny_config())
    variables = init(network)
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    last, first = network.apply(variables, images, layers=(-1, 0), method="intermediate")
    output = network.apply(variables, images)
    np.testing.assert_allclose(last["patches"], output["patches"], rtol=0, atol=1e-6)
    assert not np.allclose(first["cls"], last["cls"])
