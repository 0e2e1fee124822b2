"""Attention by cuDNN, as far as a machine without a GPU shows it."""

import dataclasses
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from configs import quickstart
from dino_jax.models import block
from dino_jax.models.attention import attend
from dino_jax.models.gpu_attention import attend_by_cudnn, takes_cudnn
from dino_jax.models.vision_transformer import VisionTransformer
from dino_jax.step.recipe import build_recipe
from dino_jax.step.roles import fit_roles

H100 = SimpleNamespace(platform="gpu", device_kind="NVIDIA H100", compute_capability="9.0")
BFLOAT16 = jnp.bfloat16
CALLS = ("__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward")


@pytest.mark.parametrize(
    "device, dtype, head_dim, expected",
    [
        (H100, BFLOAT16, 64, True),
        (H100, jnp.float32, 64, False),
        (H100, BFLOAT16, 36, False),
        (H100, BFLOAT16, 256, False),
        (SimpleNamespace(platform="gpu", compute_capability="7.5"), BFLOAT16, 64, False),
        (SimpleNamespace(platform="gpu", compute_capability="12.0"), BFLOAT16, 64, True),
        (SimpleNamespace(platform="gpu", compute_capability="gfx90a"), BFLOAT16, 64, False),
        (SimpleNamespace(platform="tpu"), BFLOAT16, 64, False),
        (SimpleNamespace(platform="cpu"), BFLOAT16, 64, False),
    ],
)
def test_cudnn_is_chosen_where_it_can_compute(device, dtype, head_dim, expected):
    assert takes_cudnn(device, dtype, head_dim) is expected


@pytest.mark.parametrize("tokens", [6, 7])
@pytest.mark.parametrize("dtype, atol", [(jnp.float32, 2e-6), (BFLOAT16, 2e-2)])
def test_its_mathematics_are_ours_with_gradients(dtype, atol, tokens):
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v, weights = (jax.random.normal(key, (2, tokens, 3, 16), dtype) for key in keys)

    def loss(attend, *qkv):
        mixed, _ = attend(*qkv)
        return jnp.sum((mixed * weights.reshape(mixed.shape)).astype(jnp.float32)), mixed

    quick = partial(attend_by_cudnn, implementation="xla")
    results = [
        jax.jit(jax.grad(partial(loss, one), argnums=(0, 1, 2), has_aux=True))(q, k, v)
        for one in (attend, quick)
    ]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            a.astype(jnp.float32), b.astype(jnp.float32), rtol=0, atol=atol
        ),
        *results,
    )


def test_a_vit_on_a_gpu_gives_the_same_features_and_still_its_attention(monkeypatch):
    plain = VisionTransformer(48, 2, 3, 8, (32, 32), dtype=BFLOAT16)
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    variables = jax.jit(plain.init)(jax.random.key(1), images)
    quick = plain.on_devices(H100, None)
    assert quick.by_cudnn and not plain.by_cudnn
    used = []

    def by_xla(*qkv):
        used.append(1)
        return attend_by_cudnn(*qkv, implementation="xla")

    monkeypatch.setattr(block, "attend_by_cudnn", by_xla)
    ours, theirs = (jax.jit(vit.apply)(variables, images) for vit in (plain, quick))
    assert used
    np.testing.assert_allclose(
        ours["cls"].astype(np.float32), theirs["cls"].astype(np.float32), rtol=0, atol=0.1
    )
    attention = quick.apply(variables, images, method="attention")
    np.testing.assert_allclose(attention.sum(-1), 1, rtol=1e-2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_train_step_is_lowered_for_cuda(dtype, monkeypatch):
    """With the call of cuDNN in it where activations are bfloat16."""
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda capability: False)
    config = quickstart.get_config()
    config.batch_size = 4
    config.network.dtype = dtype
    recipe = build_recipe(config, 1438)
    on_gpu = fit_roles(
        recipe.roles, lambda net: net.clone(backbone=net.backbone.on_devices(H100, None))
    )
    recipe = dataclasses.replace(recipe, roles=on_gpu)
    state = jax.eval_shape(recipe.init, jax.random.key(0))
    shapes = {"global_crops": (4, 2, 32, 32, 3), "local_crops": (4, 2, 16, 16, 3)}
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.uint8) for name, shape in shapes.items()}
    allowed = [jax.export.DisabledSafetyCheck.custom_call(name) for name in CALLS]
    step = jax.jit(recipe.make_step())
    exported = jax.export.export(step, platforms=["cuda"], disabled_checks=allowed)(state, batch)
    assert exported.platforms == ("cuda",)
    for call in CALLS:
        assert (f"@{call}(" in exported.mlir_module()) == (dtype == "bfloat16")
