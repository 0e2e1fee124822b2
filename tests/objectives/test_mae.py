"""MAE's network and loss against recordings of the official code."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import vitb16_mae
from dino_jax.config.section import section
from dino_jax.data.mask_indices import index_masks
from dino_jax.models.decoder import Decoder
from dino_jax.models.network import Network
from dino_jax.models.position import sincos_table
from dino_jax.models.vision_transformer import VisionTransformer
from dino_jax.objectives import mae
from dino_jax.objectives.base import Context
from dino_jax.optim.optimizer import OptimizerConfig, build_optimizer
from dino_jax.step.forward import forward
from dino_jax.step.roles import Learns, Role
from dino_jax.weights import to_torch
from tests.models.sketch import assert_gradients_equal
from tests.plain_mae import to_ours

SSL = Path(__file__).parents[1] / "golden/ssl"
VIT = VisionTransformer(embed_dim=48, depth=2, num_heads=3, patch_size=8, image_size=(48, 48))
DECODER = Decoder(out_dim=192, grid=(6, 6), embed_dim=32, depth=2, num_heads=4)
NETWORK = Network(VIT, {"decoder": DECODER}, (0.5,) * 3, (0.25,) * 3)
ROLE = Role(NETWORK, Learns(), sees=("global",), masked="drop")


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("ssl/m_forward")


@pytest.fixture(scope="module")
def variables(recorded):
    tensors = {name[3:]: recorded[name] for name in recorded.files if name.startswith("sd/")}
    tensors["pos_embed"] = sincos_table(48, (6, 6), rows_first=False)
    tensors["decoder_pos_embed"] = sincos_table(32, (6, 6), rows_first=False)
    init = partial(NETWORK.init, method="init_all")
    like = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 48, 48, 3)))
    return to_ours(tensors, like)


@pytest.fixture(scope="module")
def batch(recorded):
    keep = np.argsort(recorded["noise"], axis=1)[:, :9]
    masks = recorded["mask"][:, None].astype(bool)
    assert not np.take_along_axis(masks[:, 0], keep, axis=1).any()
    listed = {name: x[None] for name, x in index_masks(masks, masks.size).items()}
    return {
        "global_crops": recorded["images_u8"].transpose(0, 2, 3, 1)[:, None],
        "visible": keep.astype(np.int32)[:, None],
        "masks": masks,
        **listed,
    }


def outputs_of(variables, batch):
    return forward(ROLE, variables, batch, jax.random.key(0))[0]


def test_tokens_and_predictions_are_the_official_ones(recorded, variables, batch):
    @jax.jit
    def run(variables, batch):
        seen = outputs_of(variables, batch)
        features, given = seen.features[0], seen.inputs[0]
        tokens = features["cls"], features["patches"], given.visible
        return features, seen.project("decoder", tokens), given.images

    features, predictions, images = run(variables, batch)
    latent = np.concatenate([features["cls"][:, None], features["patches"]], axis=1)
    np.testing.assert_allclose(latent, recorded["latent"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(predictions, recorded["pred"], rtol=0, atol=1e-5)
    targets = mae.cut_patches(images, 8)
    np.testing.assert_allclose(targets, recorded["target_patches"], rtol=0, atol=1e-6)


def test_mask_tokens_stand_where_the_official_order_puts_them(recorded, batch):
    shuffled = np.argsort(recorded["noise"], axis=1)
    np.testing.assert_array_equal(np.argsort(shuffled, axis=1), recorded["ids_restore"])
    rows = np.arange(len(shuffled))[:, None]
    assert batch["masks"][rows, 0, shuffled[:, 9:]].all()


@pytest.mark.parametrize("target", ["normpix", "pix"])
def test_losses_and_gradients_are_the_official_ones(recorded, variables, batch, target):
    context = Context("student", {"decoder": 192}, {"decoder": "tokens"}, 10, 5)
    config = mae.Config(normalize_targets=target == "normpix")
    objective = mae.build("config.objectives.mae", config, context)

    @jax.jit
    @jax.value_and_grad
    def loss(params, batch):
        branches = {"student": outputs_of({"params": params}, batch)}
        return objective(branches, batch, {}, jnp.asarray(0)).loss

    value, gradients = loss(variables["params"], batch)
    np.testing.assert_allclose(value, recorded[f"{target}/loss"], rtol=1e-6)
    decoder = gradients["heads_decoder"]
    backbone = to_torch({"params": {"backbone": gradients["backbone"]}})
    ours = {name.removeprefix("backbone."): x for name, x in backbone.items()}
    stack = to_torch({"params": {"backbone": {"blocks": decoder["blocks"]}}})
    ours |= {name.replace("backbone.", "decoder_"): x for name, x in stack.items()}
    for here, there in {"embed": "embed", "predict": "pred"}.items():
        ours[f"decoder_{there}.weight"] = np.transpose(decoder[here]["kernel"])
        ours[f"decoder_{there}.bias"] = decoder[here]["bias"]
    ours["decoder_norm.weight"] = decoder["norm"]["scale"]
    ours["decoder_norm.bias"] = decoder["norm"]["bias"]
    ours["mask_token"] = decoder["mask_token"]
    assert_gradients_equal(ours, recorded, f"{target}/grad/", atol=1e-6)


def test_a_constant_prediction_of_normalized_patches_loses_one():
    patches = mae.normalize_patches(jax.random.normal(jax.random.key(0), (2, 9, 192)) * 3 + 1)
    loss = mae.masked_error(jnp.zeros_like(patches), patches, jnp.ones((2, 9), bool))
    np.testing.assert_allclose(loss, 191 / 192, rtol=1e-5)  # the variance is the unbiased one


def test_only_masked_patches_count():
    predictions, targets = jnp.zeros((1, 3, 4)), jnp.asarray([[[1.0] * 4, [5.0] * 4, [2.0] * 4]])
    masks = jnp.asarray([[True, False, True]])
    assert float(mae.masked_error(predictions, targets, masks)) == (1 + 4) / 2


def test_a_head_without_tokens_or_of_another_size_is_refused(variables, batch):
    context = Context("student", {"dino": 8}, {"dino": "cls"}, 10, 5)
    with pytest.raises(ValueError, match=r"head is 'dino'; heads .* take tokens: \[\]"):
        mae.build("config.objectives.mae", mae.Config(head="dino"), context)
    objective = mae.MaeObjective("decoder")
    with pytest.raises(ValueError, match="36 patches of 48 values; crops of 48 x 48"):
        objective.targets(jnp.zeros((4, 48, 48, 3)), (4, 36, 48))


def test_the_recorded_rates_are_those_of_the_schedule():
    recorded = json.loads((SSL / "m_names_init_schedule.json").read_text())
    optimizer = section("config.optimizer", vitb16_mae.get_config().optimizer, OptimizerConfig)
    steps = 1000
    _, rates = build_optimizer(
        dataclasses.replace(optimizer, warmup_epochs=40.0),
        total_steps=800 * steps,
        steps_per_epoch=steps,
        batch_size=4096,
    )
    for epoch, value in recorded["lr_epoch_value"]["points"]:
        ours = rates["lr"](round(epoch * steps))
        np.testing.assert_allclose(ours, value, rtol=1e-5, atol=1e-9, err_msg=str(epoch))
