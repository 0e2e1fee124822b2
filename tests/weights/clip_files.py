"""Folders of CLIP and SigLIP as they are downloaded, made of small recordings."""

import gzip
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

GOLDEN = Path(__file__).parents[1] / "golden" / "clip"
NAMES = ("clip", "clip_old", "siglip")
CLIP_PIXELS = {
    "do_center_crop": True,
    "crop_size": {"height": 16, "width": 16},
    "size": {"shortest_edge": 16},
    "resample": 3,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
SIGLIP_PIXELS = {
    "size": {"height": 16, "width": 16},
    "resample": 3,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
WORDS = ["teak", "table", "chair", "red", "blue", "a", "photo", "of", "the", "lamp"]


def read_recording(name: str) -> tuple[dict, dict, dict]:
    """(arrays, weights under Hugging Face's names, config.json) of a recording."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = dict(file)
    flat, about = arrays.pop("weights"), json.loads(arrays.pop("config").tobytes())
    weights, start = {}, 0
    for tensor, shape in about["shapes"].items():
        size = int(np.prod(shape))
        weights[tensor] = flat[start : start + size].reshape(shape)
        start += size
    assert start == len(flat)
    return arrays, weights, about["config"]


def write_folder(folder: Path, name: str, tokenizer: bool = True) -> Path:
    """Writes Hugging Face's files into a new folder; returns the file of weights."""
    folder.mkdir(parents=True, exist_ok=True)
    _, weights, config = read_recording(name)
    pixels = SIGLIP_PIXELS if name == "siglip" else CLIP_PIXELS
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    if tokenizer:
        (folder / "tokenizer.json").write_text(word_tokenizer(name))
    return folder / "model.safetensors"


def word_tokenizer(name: str) -> str:
    """A tokenizer.json of whole words, with the begin and end tokens of a recording."""
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, processors

    begin, end = ("<|startoftext|>", 38), ("<|endoftext|>", 39)
    if name == "siglip":
        begin, end = ("<unused>", 0), ("</s>", 1)
    vocabulary = {word: 3 + place for place, word in enumerate(WORDS)}
    vocabulary |= {"<unk>": 2, **dict([begin, end])}
    made = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens([begin[0], end[0]])
    ends = f"$0 {end[0]}" if name == "siglip" else f"{begin[0]} $0 {end[0]}"
    made.post_processor = processors.TemplateProcessing(single=ends, special_tokens=[begin, end])
    made.enable_truncation(5)  # which the file of a user may say
    made.enable_padding(length=7)
    return made.to_str()


def recorded_tokens() -> dict:
    return json.loads(gzip.decompress((GOLDEN / "tokens.json.gz").read_bytes()))


def to_openclip(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same weights under OpenCLIP's names."""
    renamed = {}
    for name, value in weights.items():
        new = name
        for old, other in (
            ("vision_model.encoder.layers.", "visual.transformer.resblocks."),
            ("text_model.encoder.layers.", "transformer.resblocks."),
            ("text_model.final_layer_norm", "ln_final"),
            ("layer_norm", "ln_"),
            ("self_attn.out_proj", "attn.out_proj"),
            ("mlp.fc1", "mlp.c_fc"),
            ("mlp.fc2", "mlp.c_proj"),
            ("vision_model.pre_layrnorm", "visual.ln_pre"),
            ("vision_model.post_layernorm", "visual.ln_post"),
            ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
            ("vision_model.embeddings.patch_embedding", "visual.conv1"),
            (
                "vision_model.embeddings.position_embedding.weight",
                "visual.positional_embedding",
            ),
            ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
            ("text_model.embeddings.token_embedding", "token_embedding"),
        ):
            new = new.replace(old, other)
        if name == "visual_projection.weight":
            new, value = "visual.proj", value.T
        if name == "text_projection.weight":
            new, value = "text_projection", value.T
        renamed[new] = np.ascontiguousarray(value)
    for name in [name for name in renamed if ".self_attn.q_proj." in name]:
        start, _, leaf = name.partition(".self_attn.q_proj.")
        parts = [renamed.pop(f"{start}.self_attn.{x}_proj.{leaf}") for x in "qkv"]
        renamed[f"{start}.attn.in_proj_{leaf}"] = np.concatenate(parts)
    return renamed
