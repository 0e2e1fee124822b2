"""The ViT of DINOv3 against a second implementation, tests/plain_dinov3.py.

tests/models/test_recordings.py holds both against the official code.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.models.crops import Crops
from dino_jax.models.rope import Config as Rope
from dino_jax.models.rope import draw_augmentation
from dino_jax.models.vision_transformer import VisionTransformer
from tests import plain_dinov3

MODEL = {"patch": 8, "depth": 2, "heads": 3, "registers": 4}
KINDS = {
    "mlp": {},
    "swiglu": {"ffn": "swiglu64", "cls_norm": True, "local_cls_norm": True, "mlp_ratio": 3.0},
    "without bias": {"qkv_bias": False},
    "larger side": {"rope": Rope(base=50.0, normalize="max")},
}


def make_vit(**changes) -> VisionTransformer:
    settings = dict(embed_dim=48, depth=2, num_heads=3, patch_size=8, image_size=(32, 32))
    v3 = dict(position="rope", registers=4, has_mask_token=True, layer_scale=0.5, key_bias=False)
    return VisionTransformer(**settings | v3 | {"norm_epsilon": 1e-5} | changes)


def random_params(vit):
    shapes = jax.eval_shape(vit.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    draws = np.random.default_rng(0)
    leaves, tree = jax.tree.flatten(shapes)
    values = [draws.normal(0, 0.2, leaf.shape).astype(np.float32) for leaf in leaves]
    return jax.tree.unflatten(tree, values)


def official(params):
    """The same under the official names."""
    tensors = {
        "cls_token": params["cls_token"],
        "storage_tokens": params["register_tokens"],
        "mask_token": params["mask_token"],
        "patch_embed.proj.weight": params["patch_embed"]["kernel"].transpose(3, 2, 0, 1),
        "patch_embed.proj.bias": params["patch_embed"]["bias"],
    }
    for norm in {"norm", "cls_norm", "local_cls_norm"} & params.keys():
        tensors |= {f"{norm}.weight": params[norm]["scale"], f"{norm}.bias": params[norm]["bias"]}
    for i in range(2):
        block = jax.tree.map(lambda x, i=i: x[i], params["blocks"])
        for norm in ("norm1", "norm2"):
            tensors[f"blocks.{i}.{norm}.weight"] = block[norm]["scale"]
            tensors[f"blocks.{i}.{norm}.bias"] = block[norm]["bias"]
        for branch in (1, 2):
            tensors[f"blocks.{i}.ls{branch}.gamma"] = block[f"layer_scale{branch}"]["gamma"]
        for place, layers in (("attn", block["attention"]), ("mlp", block["mlp"])):
            for name, layer in layers.items():
                tensors |= official_linear(f"blocks.{i}.{place}", name, layer)
        tensors[f"blocks.{i}.attn.qkv.bias_mask"] = np.zeros(1)
    return {f"backbone.{name}": np.asarray(x) for name, x in tensors.items()}


def official_linear(place, name, layer):
    pairs = {name: (layer["kernel"], layer.get("bias"))}
    if name == "w12":
        kernels, biases = (np.split(x, 2, axis=-1) for x in (layer["kernel"], layer["bias"]))
        pairs = {"w1": (kernels[0], biases[0]), "w2": (kernels[1], biases[1])}
    found = {f"{place}.{key}.weight": kernel.T for key, (kernel, _) in pairs.items()}
    biases = {f"{place}.{key}.bias": b for key, (_, b) in pairs.items() if b is not None}
    return found | biases


def images_of(height, width, batch=2):
    draws = np.random.default_rng(height * 1000 + width)
    return draws.normal(size=(batch, height, width, 3)).astype(np.float32)


def plain(vit, params, images, **options):
    model = MODEL | {"base": vit.rope.base, "normalize": vit.rope.normalize}
    channels_first = np.transpose(images, (0, 3, 1, 2))
    return plain_dinov3.backbone(official(params), channels_first, model, **options)


def tokens_of(features):
    return np.concatenate(
        [features["cls"][:, None], features["registers"], features["patches"]], axis=1
    )


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_tokens_equal_the_second_implementation_at_every_size(changes):
    vit = make_vit(**changes)
    params, apply = random_params(vit), jax.jit(vit.apply)
    masks = np.random.default_rng(1).random((2, 16)) < 0.4
    for size, mask in (((32, 32), None), ((32, 32), masks), ((24, 40), None), ((27, 45), None)):
        images = images_of(*size)
        expected, _ = plain(vit, params, images, masks=mask)
        assert_close(tokens_of(apply({"params": params}, images, mask)), expected)


def test_intermediate_layers_have_the_same_norms():
    vit = make_vit(cls_norm=True)
    params, images = random_params(vit), images_of(24, 40)
    normalized, raw = plain(vit, params, images)
    for expected, normalize in ((normalized, True), (raw, False)):
        (layer,) = vit.apply({"params": params}, images, (-1,), normalize, method="intermediate")
        assert_close(tokens_of(layer), expected)


def test_cls_and_registers_of_local_crops_have_their_own_norm():
    vit = make_vit(cls_norm=True, local_cls_norm=True)
    params, images = random_params(vit), images_of(16, 16)
    groups = [Crops(images, group=name) for name in ("global", "local")]
    features = vit.apply({"params": params}, groups, method="encode_groups")
    for ours, local in zip(features, (False, True), strict=True):
        assert_close(tokens_of(ours), plain(vit, params, images, local=local)[0])
    assert np.abs(features[0]["cls"] - features[1]["cls"]).max() > 0.1
    np.testing.assert_array_equal(features[0]["patches"], features[1]["patches"])


def test_every_block_and_every_group_turns_by_a_draw_of_its_own(monkeypatch):
    rope = Rope(shift=0.2, jitter=1.5, rescale=2.0)
    vit, drawn = make_vit(rope=rope), []

    def record(rng, rope, count):
        drawn.append(draw_augmentation(rng, rope, count))
        return drawn[-1]

    monkeypatch.setattr("dino_jax.models.vision_transformer.draw_augmentation", record)
    params, groups = random_params(vit), [Crops(images_of(32, 32)), Crops(images_of(16, 24))]
    features = vit.apply(
        {"params": params}, groups, rngs={"drop_path": jax.random.key(3)}, method="encode_groups"
    )
    assert len(drawn) == 2 and len(np.unique(np.stack(drawn))) == 2 * 2 * 5
    for ours, crops, draws in zip(features, groups, drawn, strict=True):
        assert_close(tokens_of(ours), plain(vit, params, crops.images, draws=draws)[0])
    still = vit.apply({"params": params}, groups[0].images)
    assert np.abs(still["cls"] - features[0]["cls"]).max() > 1e-3


@pytest.mark.parametrize("remat", ["names", "full"])
def test_gradients_are_the_same_however_much_is_kept(remat):
    images, rngs = images_of(16, 24), {"drop_path": jax.random.key(0)}
    vit = make_vit(rope=Rope(rescale=2.0), drop_path_rate=0.3)
    params = random_params(vit)

    def gradient(vit):
        def loss(params):
            return jnp.sum(
                vit.apply({"params": params}, images, rngs=rngs)["patches"][..., :7] ** 2
            )

        return jax.jit(jax.grad(loss))(params)

    plain, again = gradient(vit), gradient(vit.clone(remat=remat))
    for ours, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    bias = plain["blocks"]["attention"]["qkv"]["bias"]
    np.testing.assert_array_equal(bias[:, 48:96], 0)
    assert np.abs(bias[:, :48]).max() > 0


def test_there_is_no_table_of_positions():
    params = random_params(make_vit())
    assert "pos_embed" not in params
    assert make_vit().implicit.grid is None
    assert not make_vit().drops_patches


def test_leaving_patches_out_is_a_clear_error():
    vit, images = make_vit(), images_of(32, 32)
    visible = jnp.zeros((2, 4), jnp.int32)
    with pytest.raises(ValueError, match="cannot leave patches out"):
        vit.apply({"params": random_params(vit)}, images, None, visible)
