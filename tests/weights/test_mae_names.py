"""Official files of MAE, with and without their decoder."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from dino_jax.models.position import resize_position_embedding, sincos_table
from dino_jax.weights.importing import import_weights
from dino_jax.weights.model import load
from dino_jax.weights.weights_file import read_network
from tests.plain_mae import block, encode

DIM, WIDTH, SIDE, PATCH = 48, 64, 6, 8


def official(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return (0.2 * rng.normal(size=shape)).astype(np.float32)

    def layers(prefix, dim, count):
        shapes = {
            "norm1.weight": (dim,),
            "norm1.bias": (dim,),
            "attn.qkv.weight": (3 * dim, dim),
            "attn.qkv.bias": (3 * dim,),
            "attn.proj.weight": (dim, dim),
            "attn.proj.bias": (dim,),
            "norm2.weight": (dim,),
            "norm2.bias": (dim,),
            "mlp.fc1.weight": (4 * dim, dim),
            "mlp.fc1.bias": (4 * dim,),
            "mlp.fc2.weight": (dim, 4 * dim),
            "mlp.fc2.bias": (dim,),
        }
        return {
            f"{prefix}.{i}.{name}": normal(*shape)
            for i in range(count)
            for name, shape in shapes.items()
        }

    return {
        "cls_token": normal(1, 1, DIM),
        "pos_embed": sincos_table(DIM, (SIDE, SIDE), rows_first=False),
        "patch_embed.proj.weight": normal(DIM, 3, PATCH, PATCH),
        "patch_embed.proj.bias": normal(DIM),
        **layers("blocks", DIM, 2),
        "norm.weight": 1 + normal(DIM),
        "norm.bias": normal(DIM),
        "mask_token": normal(1, 1, WIDTH),
        "decoder_pos_embed": sincos_table(WIDTH, (SIDE, SIDE), rows_first=False),
        "decoder_embed.weight": normal(WIDTH, DIM),
        "decoder_embed.bias": normal(WIDTH),
        **layers("decoder_blocks", WIDTH, 2),
        "decoder_norm.weight": 1 + normal(WIDTH),
        "decoder_norm.bias": normal(WIDTH),
        "decoder_pred.weight": normal(192, WIDTH),
        "decoder_pred.bias": normal(192),
    }


def test_a_whole_mae_is_read_with_its_decoder(tmp_path):
    tensors = official()
    save_file(tensors, tmp_path / "mae.safetensors")
    read = read_network(tmp_path / "mae.safetensors", num_heads=3)
    assert not read.config["backbone"]["has_mask_token"]
    head = read.network.heads["decoder"]
    assert (head.grid, head.depth, head.num_heads, head.out_dim) == ((6, 6), 2, 2, 192)
    assert "MAE names" in read.lines[0]
    rng = np.random.default_rng(1)
    cls, patches = rng.normal(size=(2, DIM)), rng.normal(size=(2, 36, DIM))
    project = partial(read.network.apply, read.variables, "decoder", method="project")
    ours = project((jnp.asarray(cls, jnp.float32), jnp.asarray(patches, jnp.float32), None))
    x = np.concatenate([cls[:, None], patches], axis=1) @ tensors["decoder_embed.weight"].T
    x = jnp.asarray(x + tensors["decoder_embed.bias"] + tensors["decoder_pos_embed"])
    for i in range(2):
        x = block(tensors, f"decoder_blocks.{i}.", x, 2)
    x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = x * tensors["decoder_norm.weight"] + tensors["decoder_norm.bias"]
    expected = x @ tensors["decoder_pred.weight"].T + tensors["decoder_pred.bias"]
    np.testing.assert_allclose(ours, expected[:, 1:], rtol=0, atol=2e-4)


@pytest.mark.parametrize("with_decoder", [True, False])
def test_an_import_gives_the_features_of_the_encoder(tmp_path, with_decoder):
    tensors = official()
    if not with_decoder:  # as the released files
        own = ("decoder", "mask_token")
        tensors = {name: x for name, x in tensors.items() if not name.startswith(own)}
    save_file(tensors, tmp_path / "mae.safetensors")
    lines = import_weights(tmp_path / "mae.safetensors", tmp_path / "imported", num_heads=3)
    assert any("bicubic_plain" in line for line in lines)
    model = load(tmp_path / "imported")
    images = np.random.default_rng(2).normal(size=(2, 48, 48, 3)).astype(np.float32)
    ours = jax.jit(model.network.apply)(model.variables, images)
    order = np.tile(np.arange(36), (2, 1))
    expected = encode(
        tensors, images.transpose(0, 3, 1, 2), order, 36, patch=PATCH, depth=2, heads=3
    )
    np.testing.assert_allclose(ours["cls"], expected[:, 0], rtol=0, atol=2e-5)
    np.testing.assert_allclose(ours["patches"], expected[:, 1:], rtol=0, atol=2e-5)


def test_positions_are_resized_as_for_fine_tuning(golden):
    recorded = golden("ssl/m_forward")
    ours = resize_position_embedding(
        jnp.asarray(recorded["interp/in_6x6"]), (6, 6), (9, 9), (72, 72), "bicubic_plain"
    )
    np.testing.assert_allclose(ours, recorded["interp/out_9x9"], rtol=0, atol=1e-5)
