"""A random MAE of transformers comes in with its decoder."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from dino_jax.weights.exporting import export_weights
from dino_jax.weights.importing import import_weights
from dino_jax.weights.weights_file import read_network

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIDE, PATCH = 32, 8
COUNT = (SIDE // PATCH) ** 2


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model with all its tensors random, and its folder."""
    folder = tmp_path_factory.mktemp("mae")
    torch.manual_seed(0)
    config = transformers.ViTMAEConfig(
        **dict(hidden_size=96, num_hidden_layers=2, num_attention_heads=3, intermediate_size=384),
        **dict(decoder_hidden_size=48, decoder_num_hidden_layers=2, decoder_num_attention_heads=3),
        **dict(decoder_intermediate_size=192, image_size=SIDE, patch_size=PATCH),
    )
    model = transformers.ViTMAEForPreTraining(config).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.05 * torch.randn_like(tensor))
    model.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "in_memory.pth")
    return folder, model


@pytest.mark.parametrize("file", ["model.safetensors", "in_memory.pth"])
def test_visible_tokens_and_predictions_are_those_of_transformers(saved, file):
    folder, theirs = saved
    read = read_network(folder / file)
    assert "Hugging Face ViTMAEForPreTraining names" in read.lines[0]
    assert read.network.heads["decoder"].num_heads == 3
    draws = np.random.default_rng(0)
    images = draws.normal(size=(2, SIDE, SIDE, 3)).astype(np.float32)
    noise = draws.random((2, COUNT))
    with torch.no_grad():
        batch = torch.tensor(images).permute(0, 3, 1, 2)
        out = theirs(pixel_values=batch, noise=torch.tensor(noise))
    visible = jnp.asarray(np.argsort(noise, axis=1)[:, : COUNT // 4], jnp.int32)
    apply = partial(read.network.apply, read.variables)
    features = apply(images, visible=visible)
    tokens = (features["cls"], features["patches"], visible)
    predicted = apply("decoder", tokens, method="project")
    np.testing.assert_allclose(predicted, out.logits.numpy(), rtol=0, atol=1e-4)


def test_every_tensor_has_a_place_and_an_import_keeps_the_encoder(saved, tmp_path):
    folder, _ = saved
    read = read_network(folder / "model.safetensors")
    count = sum(x.size for x in jax.tree.leaves(read.variables))
    assert count == sum(x.size for x in load_file(folder / "model.safetensors").values())
    said = "\n".join(import_weights(folder / "model.safetensors", tmp_path / "imported"))
    assert "left out" not in said and "license" in said


def test_a_decoder_whose_heads_do_not_divide_its_width_is_refused(saved, tmp_path):
    folder, _ = saved
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    text = (folder / "config.json").read_text()
    changed = text.replace('"decoder_num_attention_heads": 3', '"decoder_num_attention_heads": 5')
    (tmp_path / "config.json").write_text(changed)
    with pytest.raises(ValueError, match="a decoder of width 48 with 5 attention heads"):
        read_network(tmp_path / "model.safetensors")


@pytest.mark.parametrize("names", ["huggingface", "official"])
def test_an_export_has_the_numbers_of_the_file_and_its_decoder(saved, tmp_path, names):
    folder, theirs = saved
    out = tmp_path / "again.safetensors"
    said = "\n".join(export_weights(str(folder / "model.safetensors"), str(out), names, heads=True))
    assert "every number is the same" in said
    if names == "huggingface":
        # transformers 5 writes "decoder_encoder.layer", the released files have "decoder_layers".
        before, after = (
            {name.replace("_encoder.layer.", "_layers."): x for name, x in load_file(file).items()}
            for file in (folder / "model.safetensors", out)
        )
        assert before.keys() == after.keys()
        assert all(np.array_equal(before[name], after[name]) for name in before)
        out.rename(tmp_path / "model.safetensors")
        again = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path).eval()
        draws = np.random.default_rng(1)
        batch = torch.tensor(draws.normal(size=(1, 3, SIDE, SIDE)), dtype=torch.float32)
        noise = torch.tensor(draws.random((1, COUNT)))
        with torch.no_grad():
            pairs = [model(pixel_values=batch, noise=noise).logits for model in (theirs, again)]
        np.testing.assert_allclose(*pairs, rtol=0, atol=1e-5)
    else:
        read = read_network(out, num_heads=3)
        assert "decoder_blocks.1.mlp.fc2.weight" in load_file(out)
        assert sum(x.size for x in jax.tree.leaves(read.variables)) == sum(
            x.numel() for x in theirs.state_dict().values()
        )
