"""The step that is compiled is the one that is trained, and what the compiler says is read."""

import jax
import numpy as np
import pytest

from configs import digits_dinov2, quickstart, vits16_vanilla
from dino_jax.config.change import change
from dino_jax.data.multi_crop import build_multi_crop
from dino_jax.data.pipeline import build_train_stream
from dino_jax.data.sources import build_source
from dino_jax.devices.sharding import make_mesh, state_sharding, with_sharding
from dino_jax.plan.model_flops import (
    count_flops,
    encoder_flops_per_image,
    model_flops_per_image,
)
from dino_jax.plan.program import (
    abstract_batch,
    lower_step,
    needed_memory,
    state_bytes,
)
from dino_jax.run.whole_config import read_config
from dino_jax.step.recipe import build_recipe

IMAGES = 1438


@pytest.mark.parametrize("module", [quickstart, digits_dinov2])
@pytest.mark.parametrize("backend", ["host", "device", "canvas"])
def test_the_abstract_batch_is_what_the_input_yields(module, backend):
    config = change(read_config(module.get_config()), {"augment.backend": backend})
    source = build_source(config.data)
    recipe = build_recipe(config, len(source))
    stream = build_train_stream(
        source,
        build_multi_crop(config.augment),
        seed=0,
        batch_size=config.batch_size,
        start_step=0,
        host=0,
        hosts=1,
        workers=0,
        threads=0,
        max_pixels=config.max_pixels,
        masking=recipe.masking,
    )
    real = next(stream)
    stream.close()
    del real["unreadable"]
    abstract = abstract_batch(config, recipe, None)
    assert {name: (rows.shape, rows.dtype) for name, rows in real.items()} == {
        name: (leaf.shape, leaf.dtype) for name, leaf in abstract.items()
    }


def test_the_state_of_a_device_is_its_share():
    config = read_config(quickstart.get_config())
    abstract = jax.eval_shape(build_recipe(config, IMAGES).init, jax.random.key(0))
    arrays = jax.tree.leaves(abstract.replace(rng=np.zeros(2, np.uint32)))
    sizes = [array.size * array.dtype.itemsize for array in arrays]
    whole = state_bytes(with_sharding(abstract, state_sharding(make_mesh(1), abstract)))
    assert whole == sum(sizes)
    shared = state_bytes(with_sharding(abstract, state_sharding(make_mesh(4), abstract)))
    assert whole / 4 < shared < whole / 3.5


def vit_flops(dim: int, depth: int, tokens: int, patch: int = 16) -> float:
    """Products of one ViT on one image, by hand."""
    block = 12 * tokens * dim**2 + 2 * tokens**2 * dim
    return 2 * (depth * block + (tokens - 1) * 3 * patch**2 * dim)


@pytest.mark.parametrize(("size", "dim", "depth"), [("small", 384, 12), ("base", 768, 12)])
@pytest.mark.parametrize(("remat", "backend"), [("none", "host"), ("full", "canvas")])
def test_the_model_flops_are_those_of_dino_whatever_the_remat_and_who_cuts(
    size, dim, depth, remat, backend
):
    changes = {"network.backbone.size": size, "network.backbone.remat": remat}
    changes |= {"augment.backend": backend}
    config = change(read_config(vits16_vanilla.get_config()), changes)
    both, local = vit_flops(dim, depth, 197), vit_flops(dim, depth, 37)
    head = 2 * (dim * 2048 + 2048**2 + 2048 * 256 + 256 * 65_536)
    # The teacher sees two crops; the student ten, with a backward pass of twice the forward one.
    encoder = 2 * both + 3 * (2 * both + 8 * local)
    expected = encoder + 2 * head + 3 * 10 * head
    assert model_flops_per_image(config, 1_281_167) == pytest.approx(expected, rel=0.01)
    if (remat, backend) == ("none", "host"):
        assert encoder_flops_per_image(config, 1_281_167) == pytest.approx(encoder, rel=0.01)


def test_products_in_scans_and_conditions_are_counted():
    def step(x, weights):
        x = jax.lax.scan(lambda c, w: (c @ w, None), x, weights)[0]
        return jax.lax.cond(x.sum() > 0, lambda: x @ x.T, lambda: x @ x.T + x @ x.T)

    jaxpr = jax.make_jaxpr(step)(np.ones((4, 6)), np.ones((5, 6, 6)))
    assert count_flops(jaxpr.jaxpr) == 5 * 2 * 4 * 6 * 6 + 2 * 4 * 6 * 4


def test_the_zeros_of_a_strided_backward_convolution_are_not_counted():
    def convolve(image, kernel):
        return jax.lax.conv_general_dilated(image, kernel, (2, 2), "VALID").sum()

    image, kernel = np.ones((1, 3, 9, 9), np.float32), np.ones((5, 3, 3, 3), np.float32)
    gradient = jax.make_jaxpr(jax.grad(convolve, argnums=(0, 1)))(image, kernel)
    forward = 2 * 5 * 3 * (4 * 4) * (3 * 3)
    assert count_flops(gradient.jaxpr) == 3 * forward


@pytest.mark.parametrize(
    ("message", "gibibytes"),
    [
        ("RESOURCE_EXHAUSTED: Used 18.92G of 15.75G hbm. Exceeded hbm capacity by 3.17G.", 18.92),
        ("RESOURCE_EXHAUSTED: … memory required for HLO temporaries (1.50T) exceeds …", 1536),
        ("RESOURCE_EXHAUSTED: Used 512.0M of", 0.5),
        ("INTERNAL: Used 512.0M of", None),
        ("RESOURCE_EXHAUSTED: too many files", None),
    ],
)
def test_the_memory_that_was_missing_is_read_from_the_error(message, gibibytes):
    needed = needed_memory(message)
    assert needed == (None if gibibytes is None else pytest.approx(gibibytes * 2**30))


def test_changes_leave_the_config_as_it_was():
    config = read_config(quickstart.get_config())
    changed = change(config, {"runtime.fsdp": 2, "batch_size": 8})
    assert (changed.runtime.fsdp, changed.batch_size) == (2, 8)
    assert (config.runtime.fsdp, config.batch_size) == (1, 64)
    with pytest.raises(KeyError):
        change(config, {"runtime.fdsp": 2})


def test_a_step_that_does_not_divide_is_the_error_of_the_training():
    config = change(read_config(quickstart.get_config()), {"batch_size": 62})
    with pytest.raises(ValueError, match=r"\(62\) must be a multiple of 4 = 4 devices"):
        lower_step(config, IMAGES, jax.devices())
