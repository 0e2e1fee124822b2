"""What the devices of a mesh exchange: gradients and weights, never images or activations."""

import jax
import pytest

from configs import digits_dinov2, quickstart
from dino_jax.config.change import change
from dino_jax.data.multi_crop import build_multi_crop
from dino_jax.plan.cost import COLLECTIVES, module_cost
from dino_jax.plan.hlo import parse_module
from dino_jax.plan.program import abstract_batch, lower_step
from dino_jax.run.whole_config import read_config
from dino_jax.step.recipe import build_recipe
from tests.run_train import SMALL

IMAGES = 1438
DINOV2 = {
    "batch_size": 32,
    "masking.group_size": 8,
    "objectives.koleo.group_size": 8,
    "network.backbone.depth": 2,
    "network.backbone.drop_path_group": 16,
}
CANVAS = SMALL | {"augment.backend": "canvas", "augment.canvas": (32, 32)}
CONFIGS = {
    "dino": (quickstart, SMALL),
    "dinov2": (digits_dinov2, DINOV2),
    "canvas": (quickstart, CANVAS),
}


@pytest.fixture(scope="module", params=[("dino", 1), ("dino", 2), ("dinov2", 4), ("canvas", 2)])
def compiled(request):
    """(config, fsdp, module) of the step that dino_jax.train runs, on four devices."""
    name, fsdp = request.param
    module, changes = CONFIGS[name]
    config = change(read_config(module.get_config()), changes | {"runtime.fsdp": fsdp})
    lowered, _ = lower_step(config, IMAGES, jax.devices())
    return config, fsdp, parse_module(lowered.compile().as_text())


def collectives(module):
    """(kind, arrays) of every collective of a program."""
    for computation in module.computations.values():
        for instruction in computation.values():
            kind = instruction.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                yield kind, instruction.arrays


def test_nothing_is_exchanged_but_weights_and_their_gradients(compiled):
    _, fsdp, module = compiled
    kinds = {kind for kind, _ in collectives(module)}
    split = {"all-gather", "reduce-scatter"} if fsdp > 1 else set()
    assert kinds == {"all-reduce"} | split


def test_images_stay_where_they_are(compiled):
    config, _, module = compiled
    batch = abstract_batch(config, build_recipe(config, IMAGES), None)
    crops = {(*group.size, 3) for group in build_multi_crop(config.augment).groups.values()}
    pixels = crops | {leaf.shape[2:] for leaf in batch.values() if leaf.ndim == 5}  # or canvases
    patch = config.network.backbone.patch_size
    patches = {(h // patch * w // patch, patch * patch * c) for h, w, c in crops}
    # The order of the color jitter is the same in every row: all read that of the first.
    orders = {leaf.shape[1:] for name, leaf in batch.items() if name.endswith("_jitter_order")}
    for _, arrays in collectives(module):
        for array in arrays:
            assert array.dtype != "u8" or array.shape[-2:] in orders
            assert array.shape[-3:] not in pixels and array.shape[-2:] not in patches


def test_what_is_gathered_are_weights(compiled):
    config, fsdp, module = compiled
    state = jax.eval_shape(build_recipe(config, IMAGES).init, jax.random.key(0))
    student, depth = state.networks["student"], config.network.backbone.depth
    sizes = {leaf.size for leaf in jax.tree.leaves(student)}
    sizes |= {
        leaf.size // depth for leaf in jax.tree.leaves(student["params"]["backbone"]["blocks"])
    }
    gathered = [arrays[-1] for kind, arrays in collectives(module) if kind == "all-gather"]
    assert (fsdp > 1) == bool(gathered)
    for array in gathered:
        assert array.bytes / 4 in sizes, array


def test_the_devices_add_up_every_gradient_once(compiled):
    config, fsdp, module = compiled
    state = jax.eval_shape(build_recipe(config, IMAGES).init, jax.random.key(0))
    weights = sum(4 * leaf.size for leaf in jax.tree.leaves(state.networks["student"]["params"]))
    moved = {kind: each.bytes for kind, each in module_cost(module, 4).collectives.items()}
    scattered = moved.get("reduce-scatter", 0)
    assert weights < moved["all-reduce"] + scattered < 2 * weights
    assert scattered >= (0 if fsdp == 1 else 0.5 * weights)
