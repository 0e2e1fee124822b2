"""Official names in and out: bit-equal round trips, and errors that list everything."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.models.dino_head import DinoHead
from dino_jax.models.network import Network
from dino_jax.models.vision_transformer import VisionTransformer
from dino_jax.weights import from_torch, split_state_dict, to_torch

HEADS = {
    "three layers": dict(layers=3, batch_norm=False, train_gain=False),
    "trained gain": dict(layers=3, batch_norm=False, train_gain=True),
    "batch norm": dict(layers=3, batch_norm=True, train_gain=True),
    "one layer": dict(layers=1, batch_norm=False, train_gain=False),
    "two layers": dict(layers=2, batch_norm=False, train_gain=True),
    "linear last layer": dict(layers=3, batch_norm=False, train_gain=False, linear=True),
    "two layers, batch norm": dict(layers=2, batch_norm=True, train_gain=False),
}
VARIANTS = [*HEADS, "backbone only"]


def shapes_of(variant):
    """The variables of a small network as shapes."""
    vit = VisionTransformer(embed_dim=24, depth=2, num_heads=3, patch_size=8, image_size=(32, 32))
    heads = {}
    if variant in HEADS:
        sizes = dict(out_dim=20, hidden_dim=18, bottleneck_dim=10)
        heads = {"dino": DinoHead(**sizes, **HEADS[variant])}
    network = Network(vit, heads, (0.5,) * 3, (0.25,) * 3)
    init = partial(network.init, method="init_all")
    return jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def random_like(shapes):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


def assert_equal(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, mine), other in zip(
        jax.tree_util.tree_flatten_with_path(ours)[0], jax.tree.leaves(theirs), strict=True
    ):
        assert mine.dtype == np.float32
        np.testing.assert_array_equal(mine, other, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trips_are_bit_equal(variant):
    shapes = shapes_of(variant)
    variables = random_like(shapes)
    tensors = to_torch(variables)
    assert_equal(from_torch(tensors, shapes), variables)
    again = to_torch(from_torch(tensors, shapes))
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(again[name], tensor, err_msg=name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_prefixes_of_data_parallel_training_make_no_difference(variant):
    shapes = shapes_of(variant)
    variables = random_like(shapes)
    tensors = to_torch(variables)
    with_module = {f"module.{name}": tensor for name, tensor in tensors.items()}
    bare = {name.partition(".")[2]: tensor for name, tensor in tensors.items()}
    assert len(bare) == len(tensors)
    for named in (with_module, bare):
        assert_equal(from_torch(named, shapes), variables)


def test_the_count_of_batches_is_ignored():
    shapes = shapes_of("batch norm")
    variables = random_like(shapes)
    count = {"head.mlp.1.num_batches_tracked": np.array(7)}
    assert_equal(from_torch(to_torch(variables) | count, shapes), variables)


def test_layouts_are_those_of_torch():
    variables = random_like(shapes_of("three layers"))
    tensors = to_torch(variables)
    params = variables["params"]
    fc1 = params["backbone"]["blocks"]["mlp"]["fc1"]["kernel"]
    np.testing.assert_array_equal(tensors["backbone.blocks.1.mlp.fc1.weight"], fc1[1].T)
    convolution = params["backbone"]["patch_embed"]["kernel"]
    official = tensors["backbone.patch_embed.proj.weight"]
    assert official.shape == (24, 3, 8, 8)
    assert official[5, 2, 1, 7] == convolution[1, 7, 2, 5]
    np.testing.assert_array_equal(tensors["head.last_layer.weight_g"], np.ones((20, 1)))


RECORDED = {
    "norm": "three layers",
    "nonorm": "trained gain",
    "bn": "batch norm",
    "n1": "one layer",
    "n2": "two layers",
}


@pytest.mark.parametrize("case", RECORDED)
def test_names_of_a_head_are_the_official_ones(golden, case):
    prefix = f"{case}/sd/"
    names = [n.removeprefix(prefix) for n in golden("v1/dino_head").files if n.startswith(prefix)]
    official = {f"head.{n}" for n in names if not n.endswith("num_batches_tracked")}
    ours = to_torch(random_like(shapes_of(RECORDED[case])))
    assert {name for name in ours if name.startswith("head.")} == official


def test_names_of_a_backbone_are_the_official_ones(golden):
    recorded = {f"backbone.{n[3:]}" for n in golden("v1/vit_tiny48").files if n.startswith("sd/")}
    official = {name for name in recorded if ".blocks.2." not in name}  # ours has two blocks
    assert set(to_torch(random_like(shapes_of("backbone only")))) == official


def test_everything_that_does_not_fit_is_listed_at_once():
    shapes = shapes_of("three layers")
    tensors = to_torch(random_like(shapes))
    del tensors["backbone.cls_token"], tensors["backbone.blocks.1.norm2.bias"]
    tensors["backbone.blocks.2.norm1.weight"] = np.zeros(24, np.float32)
    tensors["backbone.pos_embed"] = np.zeros((1, 50, 24), np.float32)
    tensors["head.mlp.0.weight"] = np.zeros((18, 25), np.float32)
    tensors["backbone.patch_embed.proj.weight"] = np.zeros((24, 192), np.float32)
    tensors["module.norm.weight"] = np.zeros(24, np.float32)
    tensors["head.last_layer.weight_g"][3] = 1.5
    with pytest.raises(ValueError) as caught:
        from_torch(tensors, shapes)
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert sorted(lines) == [
        "head.last_layer.weight_g is not 1, but the network does not train gains: set "
        "heads.*.train_gain=True",
        "missing backbone.blocks.1.norm2.bias",
        "missing backbone.cls_token",
        "shape of backbone.patch_embed.proj.weight: the file has (24, 192), the network "
        "(24, 3, 8, 8)",
        "shape of backbone.pos_embed: the file has (1, 50, 24), the network (1, 17, 24)",
        "shape of head.mlp.0.weight: the file has (18, 25), the network (18, 24)",
        "twice backbone.norm.weight: module.norm.weight names it again",
        "unused backbone.blocks.2.norm1.weight",
    ]


def test_a_backbone_file_does_not_fit_a_network_with_a_head_nor_the_other_way():
    with_head, without = shapes_of("three layers"), shapes_of("backbone only")
    with pytest.raises(ValueError, match=r"missing head\.last_layer\.weight_v"):
        from_torch(to_torch(random_like(without)), with_head)
    with pytest.raises(ValueError, match=r"unused head\.last_layer\.weight_v"):
        from_torch(to_torch(random_like(with_head)), without)


def two_heads():
    """The variables of a network whose heads differ in width, with gains in one of them."""
    one, other = shapes_of("two layers"), shapes_of("three layers")
    dino, ibot = one["params"]["heads_dino"], other["params"]["heads_dino"]
    backbone = one["params"]["backbone"]
    return {"params": {"backbone": backbone, "heads_dino": dino, "heads_ibot": ibot}}


def test_several_heads_have_the_names_of_dinov2_both_ways():
    shapes = two_heads()
    variables = random_like(shapes)
    tensors = to_torch(variables)
    prefixes = {name.partition(".")[0] for name in tensors}
    assert prefixes == {"backbone", "dino_head", "ibot_head"}
    assert_equal(from_torch(tensors, shapes), variables)
    tensors["ibot_head.last_layer.weight_g"][0] = 2.0
    with pytest.raises(ValueError, match=r"ibot_head\.last_layer\.weight_g is not 1"):
        from_torch(tensors, shapes)


def test_an_only_head_is_read_under_its_name_in_dinov2_too():
    shapes = shapes_of("trained gain")
    variables = random_like(shapes)
    named = {name.replace("head.", "dino_head."): x for name, x in to_torch(variables).items()}
    assert "dino_head.last_layer.weight_g" in named
    assert_equal(from_torch(named, shapes), variables)


def test_a_head_that_the_network_has_not_is_listed_as_unused():
    tensors = to_torch(random_like(two_heads()))
    with pytest.raises(ValueError, match=r"unused ibot_head\.last_layer\.weight_v") as caught:
        from_torch(tensors, shapes_of("two layers"))
    assert "dino_head" not in str(caught.value)
    assert "missing" not in str(caught.value)


def test_a_file_splits_into_the_parts_of_the_network():
    shapes = shapes_of("three layers")
    tensors = {"norm.weight": 0, "module.backbone.norm.bias": 1, "head.mlp.0.weight": 2}
    tensors |= {"ibot_head.mlp.0.weight": 3}
    assert split_state_dict(tensors, shapes) == {
        "backbone": {"norm.weight": 0, "module.backbone.norm.bias": 1},
        "heads_dino": {"head.mlp.0.weight": 2},
        "ibot_head": {"ibot_head.mlp.0.weight": 3},
    }
    two_heads = {"params": {"heads_dino": {"a": 0}, "heads_ibot": {"a": 0}}}
    assert set(split_state_dict(tensors, two_heads)) == {"backbone", "heads_dino", "heads_ibot"}


def test_each_part_of_a_file_gives_its_variables():
    shapes = shapes_of("batch norm")
    variables = random_like(shapes)
    parts = split_state_dict(to_torch(variables), shapes)
    for name in ("backbone", "heads_dino"):
        alone = {kind: {name: x[name]} for kind, x in shapes.items() if name in x}
        wanted = {kind: {name: x[name]} for kind, x in variables.items() if name in x}
        assert_equal(from_torch(parts[name], alone), wanted)
