"""First weights: from a run and from an official file, what fits and what does not."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from configs import quickstart
from dino_jax.config.section import section
from dino_jax.devices.sharding import make_mesh, state_sharding
from dino_jax.models.position import resize_position_embedding
from dino_jax.step.recipe import build_recipe
from dino_jax.weights import to_torch
from dino_jax.weights.init_from import InitFromConfig, load_first_weights
from dino_jax.workdir import checkpointing
from dino_jax.workdir.config_json import open_workdir

POSITIONS = ("params", "backbone", "pos_embed")


def make_config(**changes):
    config = quickstart.get_config()
    config.network.backbone.update(embed_dim=24, depth=2)
    config.network.heads.dino.update(out_dim=256, hidden_dim=16, bottleneck_dim=8)
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The teacher of a run that was saved at steps 2 and 4, as (workdir, file, variables)."""
    folder = tmp_path_factory.mktemp("source")
    config = make_config()
    recipe = build_recipe(config, 1438)
    state = jax.jit(recipe.init)(jax.random.key(5))
    noise = np.random.default_rng(0)
    teacher = jax.tree.map(
        lambda x: x + 0.1 * noise.normal(size=x.shape).astype("f"), state.networks["teacher"]
    )
    open_workdir(folder / "run", config)
    checkpoints = checkpointing.open_checkpoints(folder / "run", save_every_steps=2, keep=9)
    halved = jax.tree.map(lambda x: x / 2, teacher)
    checkpointing.save(checkpoints, 2, state.replace(networks={"teacher": halved}))
    checkpointing.save(checkpoints, 4, state.replace(networks={"teacher": teacher}))
    checkpointing.close(checkpoints)
    save_file(to_torch(teacher), folder / "official.safetensors")
    return folder / "run", folder / "official.safetensors", jax.device_get(teacher)


def load(config, workdir):
    """The variables that are imported, and what is said."""
    recipe = build_recipe(config, 1438)
    abstract = jax.eval_shape(recipe.init, jax.random.key(0))
    first = load_first_weights(config.init_from, abstract, recipe.network.backbone, workdir)
    return first.variables, "\n".join(first.lines)


def start(config, workdir, fsdp=1):
    """The first state of a run."""
    recipe = build_recipe(config, 1438)
    abstract = jax.eval_shape(recipe.init, jax.random.key(0))
    first = load_first_weights(config.init_from, abstract, recipe.network.backbone, workdir)
    shardings = state_sharding(make_mesh(fsdp), abstract)
    return first.init(recipe.init, jax.random.key(0), shardings)


def backbone_of(variables):
    return {"params": {"backbone": variables["params"]["backbone"]}}


def assert_equal(got, wanted):
    got, wanted = flatten_dict(jax.device_get(got)), flatten_dict(wanted)
    assert got.keys() == wanted.keys()
    for path, value in wanted.items():
        np.testing.assert_array_equal(got[path], value, err_msg="/".join(path))


@pytest.mark.parametrize("kind", ["run", "file"])
@pytest.mark.parametrize("fsdp", [1, 4])
def test_both_networks_start_from_the_teacher_of_the_source(source, tmp_path, kind, fsdp):
    path = str(source[0] if kind == "run" else source[1])
    config = make_config(**{"init_from.path": path})
    state = start(config, tmp_path, fsdp)
    assert_equal(state.networks["student"], source[2])
    assert_equal(state.networks["teacher"], source[2])
    assert int(state.step) == 0
    said = load(config, tmp_path)[1]
    assert "FRESH" not in said and "head dino: imported" in said
    kernel = state.networks["teacher"]["params"]["backbone"]["blocks"]["mlp"]["fc1"]["kernel"]
    assert len({str(shard.index) for shard in kernel.addressable_shards}) == fsdp
    pointers = [
        {shard.data.unsafe_buffer_pointer() for x in jax.tree.leaves(tree)
         for shard in x.addressable_shards}
        for tree in state.networks.values()
    ]  # fmt: skip
    assert not pointers[0] & pointers[1]


def test_without_a_path_the_networks_are_random(tmp_path):
    config = make_config()
    plain = jax.jit(build_recipe(config, 1438).init)(jax.random.key(0))
    assert_equal(
        start(config, tmp_path).networks["teacher"], jax.device_get(plain.networks["teacher"])
    )
    assert load(config, tmp_path) == ({}, "")


def test_a_head_that_is_not_imported_stays_random_in_both_networks(source, tmp_path):
    config = make_config(**{"init_from.path": str(source[0]), "init_from.heads": "fresh"})
    plain = jax.device_get(jax.jit(build_recipe(config, 1438).init)(jax.random.key(0)))
    state = start(config, tmp_path)
    for network in state.networks.values():
        random = plain.networks["teacher"]["params"]["heads_dino"]
        assert_equal(network["params"]["heads_dino"], random)
        assert_equal(network["params"]["backbone"], source[2]["params"]["backbone"])


def test_a_step_of_a_run_can_be_named(source, tmp_path):
    changes = {"init_from.path": str(source[0]), "init_from.step": 2}
    variables, said = load(make_config(**changes), tmp_path)
    assert_equal(variables, jax.tree.map(lambda x: x / 2, source[2]))
    assert "teacher of step 2 of" in said
    with pytest.raises(FileNotFoundError, match=r"no checkpoint 3 .*steps found: \[2, 4\]"):
        load(make_config(**changes | {"init_from.step": 3}), tmp_path)
    with pytest.raises(ValueError, match=r"init_from\.step .2. is for workdirs, not for the file"):
        load(make_config(**changes | {"init_from.path": str(source[1])}), tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"init_from.heads": "fresh"}, "as config.init_from.heads says"),
        ({"network.heads.dino.out_dim": 128}, r"prototypes: the run has (256, 8), this network (1"),
        ({"network.heads.dino.batch_norm": False}, "norm_0/scale: the run has (16,), this network"),
    ],
)
def test_a_head_that_does_not_fit_is_left_out_and_that_is_said(source, tmp_path, changes, reason):
    variables, said = load(make_config(**{"init_from.path": str(source[0])} | changes), tmp_path)
    assert_equal(variables, backbone_of(source[2]))
    assert "head dino: FRESH (random)" in said and reason in said


def test_a_backbone_file_leaves_the_head_random_and_a_spare_head_is_named(source, tmp_path):
    tensors = to_torch(source[2])
    backbone = {n.partition(".")[2]: x for n, x in tensors.items() if n.startswith("backbone.")}
    save_file(backbone, tmp_path / "backbone.safetensors")
    changes = {"init_from.path": str(tmp_path / "backbone.safetensors")}
    variables, said = load(make_config(**changes), tmp_path)
    assert_equal(variables, backbone_of(source[2]))
    assert "head dino: FRESH (random), the source has none" in said

    spare = {"ibot_head.mlp.0.weight": np.zeros((2, 2), np.float32)}
    save_file(tensors | spare, tmp_path / "spare.safetensors")
    _, said = load(make_config(**{"init_from.path": str(tmp_path / "spare.safetensors")}), tmp_path)
    assert "head dino: imported" in said
    assert "not used, this network has no such head: ibot_head" in said


def test_every_backbone_tensor_that_does_not_fit_is_listed(source, tmp_path):
    for path in map(str, source[:2]):
        with pytest.raises(ValueError) as caught:
            load(make_config(**{"init_from.path": path, "network.backbone.depth": 1}), tmp_path)
        lines = str(caught.value).splitlines()
        assert path in lines[0]
        # 4 linear layers with biases and 2 norms: 12 tensors of the block that is left over.
        assert len(lines) == 1 + 12
    with pytest.raises(ValueError, match=r"missing backbone\.register_tokens"):
        load(make_config(**{"init_from.path": path, "network.backbone.registers": 2}), tmp_path)


def test_another_number_of_attention_heads_is_an_error_where_it_is_known(source, tmp_path):
    changes = {"init_from.path": str(source[0]), "network.backbone.num_heads": 6}
    with pytest.raises(ValueError, match="has 3 attention heads, network"):
        load(make_config(**changes), tmp_path)


def test_what_no_shape_shows_is_said_if_it_differs(source, tmp_path):
    assert "note:" not in load(make_config(**{"init_from.path": str(source[0])}), tmp_path)[1]
    changes = {
        "network.backbone.position_kernel": "antialiased",
        "network.backbone.norm_epsilon": 1e-5,
    }
    for path in map(str, source[:2]):
        said = load(make_config(**{"init_from.path": path} | changes), tmp_path)[1]
        assert "note: position_kernel is 'antialiased' here, 'bicubic' where the weights" in said
        assert "note: norm_epsilon is 1e-05 here, 1e-06 where the weights are from" in said


@pytest.mark.parametrize("kernel", ["bicubic", "antialiased"])
def test_the_position_table_is_resampled_to_another_grid_and_that_is_said(source, tmp_path, kernel):
    changes = {"network.backbone.image_size": (48, 24), "network.backbone.position_kernel": kernel}
    table = flatten_dict(source[2])[POSITIONS]
    wanted = resize_position_embedding(table, (4, 4), (6, 3), (48, 24), kernel)
    for path in map(str, source[:2]):
        variables, said = load(make_config(**{"init_from.path": path} | changes), tmp_path)
        np.testing.assert_array_equal(flatten_dict(variables)[POSITIONS], wanted)
        assert f"RESAMPLED from 4 x 4 to 6 x 3 patches ({kernel})" in said


def test_a_table_of_the_same_size_but_another_grid_is_resampled_too(source, tmp_path):
    changes = {"init_from.path": str(source[0]), "network.backbone.image_size": (16, 64)}
    assert "RESAMPLED from 4 x 4 to 2 x 8" in load(make_config(**changes), tmp_path)[1]


def test_the_checkpoints_of_the_workdir_win(source):
    ignored = "init_from   ignored: the workdir has checkpoints of its own"
    assert load(make_config(**{"init_from.path": "nowhere"}), source[0]) == ({}, ignored)


def test_wrong_values_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"config.init_from.heads is 'all'; known: \['fresh', 'im"):
        section("config.init_from", {"heads": "all"}, InitFromConfig)
    with pytest.raises(FileNotFoundError, match=r"no checkpoints in .*nowhere"):
        load(make_config(**{"init_from.path": str(tmp_path / "nowhere")}), tmp_path)


ONE_CHANNEL = {"network.backbone.in_channels": 1, "network.mean": (0.5,), "network.std": (0.2,)}
FIRST = ("params", "backbone", "patch_embed", "kernel")


@pytest.mark.parametrize("kind", [0, 1], ids=["run", "file"])
@pytest.mark.parametrize(
    ("rule", "channels", "factors"),
    [
        ("mean", 1, [[1, 1, 1]]),
        ("repeat", 1, [[3, 0, 0]]),
        ("2", 1, [[0, 0, 1]]),
        ("mean", 2, [[0.5, 0.5, 0.5]] * 2),
        ("repeat", 4, [[0.75, 0, 0], [0, 0.75, 0], [0, 0, 0.75], [0.75, 0, 0]]),
        ("0,1,2,1", 4, [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]]),
    ],
)
def test_the_first_layer_is_made_for_other_channels(
    source, tmp_path, kind, rule, channels, factors
):
    changes = {
        "init_from.path": str(source[kind]),
        "init_from.channels": rule,
        "data.channels": channels,
        "network.backbone.in_channels": channels,
        "network.mean": (0.5,) * channels,
        "network.std": (0.2,) * channels,
    }
    variables, said = load(make_config(**changes), tmp_path)
    flat, theirs = flatten_dict(variables), flatten_dict(source[2])
    expected = np.einsum("ot,hwtd->hwod", np.array(factors), theirs[FIRST])
    np.testing.assert_allclose(flat[FIRST], expected, rtol=1e-5, atol=1e-7)
    others = {path: x for path, x in flat.items() if path[1] == "backbone" and path != FIRST}
    for path, x in others.items():
        np.testing.assert_array_equal(x, theirs[path])
    assert f"first layer: MADE for {channels} channels of 3 ({rule})" in said


@pytest.mark.parametrize(
    ("rule", "reason"),
    [("", "set --config.init_from.channels"), ("3", "0 to 2"), ("0,1", "0 to 2"), ("all", "mean")],
)
def test_other_channels_without_a_rule_are_an_error_that_names_the_option(
    source, tmp_path, rule, reason
):
    changes = {"init_from.path": str(source[0]), "init_from.channels": rule, "data.channels": 1}
    with pytest.raises(ValueError, match=reason):
        load(make_config(**changes | ONE_CHANNEL), tmp_path)
