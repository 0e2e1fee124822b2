"""What the files beside CLIP's or SigLIP's weights say that no shape of a tensor shows.

config.json of Hugging Face, or open_clip_config.json of OpenCLIP; preprocessor_config.json, which
says how images are cut and normalised. They are needed: a wrong activation, end token or mean gives
features that look right and are not.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath

from dino_jax.data.view import View
from dino_jax.foreign.json_text import read_json
from dino_jax.weights.model_card import MAX_CARD_BYTES

HUGGINGFACE, OPENCLIP = "config.json", "open_clip_config.json"
PREPROCESSOR = "preprocessor_config.json"
_ACTIVATIONS = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "tanh_gelu",
}
_RESAMPLINGS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_OLD_END = 2  # an eos_token_id that old files of CLIP have, and that is not the id of the end
# transformers' defaults of what a config.json may leave out.
_DEFAULTS = {
    "clip": {
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "eos_token_id": 49407,
        "pad_token_id": 1,
    },
    "siglip": {
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
        "eos_token_id": 49407,
        "pad_token_id": 1,
    },
}
_HEADS = {"clip": (12, 8), "siglip": (12, 12)}  # of images and of texts
# Of OpenCLIP's towers: others change what is computed.
_KNOWN_VISION = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"}
_KNOWN_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}


class TowerSettings(NamedTuple):
    """Of one tower: attention heads, key of `layers.ACTIVATIONS`, and epsilon of the LayerNorms."""

    num_heads: int
    activation: str
    norm_epsilon: float


class ClipSettings(NamedTuple):
    """Of both towers.

    Attributes:
      kind: "clip" or "siglip".
      vision, text: of the towers.
      pooling: a key of `text_tower.POOLINGS`.
      end_token: id of the end of a text.
      pad_token: id that fills texts up.
    """

    kind: str
    vision: TowerSettings
    text: TowerSettings
    pooling: str
    end_token: int
    pad_token: int


class Pixels(NamedTuple):
    """How images become what the tower sees: the square, its side, mean and deviation."""

    view: View
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_settings(folder: epath.Path, openclip: bool) -> ClipSettings:
    """Reads config.json, or open_clip_config.json of weights with OpenCLIP's names.

    Raises:
      OSError: if it is not there.
      ValueError: if it describes another kind of network, or a value is unknown.
    """
    file = folder / (OPENCLIP if openclip else HUGGINGFACE)
    config = _read(file, "which activation and attention heads it has")
    try:
        return _of_openclip(config["model_cfg"]) if openclip else _of_huggingface(config)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{file} does not describe a CLIP or SigLIP: {why}") from error


def _of_huggingface(config: Mapping[str, Any]) -> ClipSettings:
    kind = config.get("model_type", "clip")
    if kind not in _DEFAULTS:
        raise ValueError(f"model_type is {kind!r:.50}; known: {sorted(_DEFAULTS)}")
    vision, text = (
        _DEFAULTS[kind] | {"num_attention_heads": heads} | dict(config.get(part) or {})
        for part, heads in zip(("vision_config", "text_config"), _HEADS[kind], strict=True)
    )
    end = _whole(text, "eos_token_id")
    pooling = "last" if kind == "siglip" else "largest" if end == _OLD_END else "end"
    pad = _whole(text, "pad_token_id")
    return ClipSettings(kind, _tower(vision), _tower(text), pooling, end, pad)


def _tower(config: Mapping[str, Any]) -> TowerSettings:
    name = config["hidden_act"]
    if name not in _ACTIVATIONS:
        raise ValueError(f"hidden_act is {name!r:.50}; known: {sorted(_ACTIVATIONS)}")
    epsilon = config["layer_norm_eps"]
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        raise ValueError(f"layer_norm_eps is {epsilon!r:.50}; expected a small number")
    return TowerSettings(_whole(config, "num_attention_heads"), _ACTIVATIONS[name], epsilon)


def _of_openclip(config: Mapping[str, Any]) -> ClipSettings:
    vision, text = config["vision_cfg"], config["text_cfg"]
    odd = sorted({*vision} - _KNOWN_VISION) + sorted({*text} - _KNOWN_TEXT)
    odd += sorted({*config} - {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"})
    if odd:
        raise ValueError(f"{', '.join(odd)[:200]}: towers of this kind are not known")
    activation = "quick_gelu" if config.get("quick_gelu", False) else "gelu"
    heads = _whole(vision, "width") // _whole({"head_width": 64} | dict(vision), "head_width")
    images = TowerSettings(heads, activation, 1e-5)
    texts = TowerSettings(_whole(text, "heads"), activation, 1e-5)
    end = _whole(text, "vocab_size") - 1
    return ClipSettings("clip", images, texts, "largest", end, 0)


def read_pixels(folder: epath.Path, openclip: bool) -> Pixels:
    """Reads how images are prepared.

    Raises:
      OSError: if the file is not there.
      ValueError: if something else is done with images than is known here.
    """
    file = folder / (OPENCLIP if openclip else PREPROCESSOR)
    config = _read(file, "how images are cut and normalised")
    try:
        return _pixels_of_openclip(config) if openclip else _pixels_of_huggingface(config)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{file} prepares images in a way that is not known: {why}") from error


def _pixels_of_huggingface(config: Mapping[str, Any]) -> Pixels:
    for name in ("do_resize", "do_rescale", "do_normalize"):
        if config.get(name, True) is not True:
            raise ValueError(f"{name} is {config[name]!r:.50}; expected true")
    factor = config.get("rescale_factor", 1 / 255)
    if not abs(factor * 255 - 1) < 1e-3:
        raise ValueError(f"rescale_factor is {factor!r:.50}; expected 1/255")
    if config.get("resample", 3) not in _RESAMPLINGS:
        raise ValueError(f"resample is {config['resample']!r:.50}; known: {sorted(_RESAMPLINGS)}")
    resampling = _RESAMPLINGS[config.get("resample", 3)]
    mean, std = _three(config["image_mean"]), _three(config["image_std"])
    size, given = config["size"], config.get("crop_size")
    cropped = config.get("do_center_crop", given is not None)
    side = _square(given if cropped and given is not None else size)
    short = size.get("shortest_edge") if isinstance(size, Mapping) else size
    if cropped and short is not None:
        return Pixels(View("crop", max(1.0, short / side), resampling), side, mean, std)
    if cropped or "shortest_edge" in size:
        raise ValueError(f"size is {size!r:.100}, do_center_crop {cropped}")
    return Pixels(View("squeeze", resampling=resampling), side, mean, std)


def _pixels_of_openclip(config: Mapping[str, Any]) -> Pixels:
    given = {"interpolation": "bicubic", "resize_mode": "shortest"} | config["preprocess_cfg"]
    fits = {"shortest": "crop", "squash": "squeeze"}
    if given["resize_mode"] not in fits or given["interpolation"] not in _RESAMPLINGS.values():
        raise ValueError(f"resize_mode {given['resize_mode']!r}, {given['interpolation']!r}")
    side = _square(given.get("size", config["model_cfg"]["vision_cfg"]["image_size"]))
    view = View(fits[given["resize_mode"]], 1.0, given["interpolation"])
    return Pixels(view, side, _three(given["mean"]), _three(given["std"]))


def _square(size: Any) -> int:
    """The side of a square that is given in one of several ways."""
    if isinstance(size, Mapping):
        sides = [size[x] for x in ("height", "width") if x in size] or [size["shortest_edge"]]
    else:
        sides = list(size) if isinstance(size, list) else [size]
    if len(set(sides)) != 1 or type(sides[0]) is not int or not 1 <= sides[0] <= 1 << 14:
        raise ValueError(f"{size!r:.100} is not the side of a square")
    return sides[0]


def _three(values: Any) -> tuple[float, ...]:
    if not isinstance(values, list) or len(values) != 3:
        raise ValueError(f"{values!r:.100} are not three numbers")
    return tuple(float(value) for value in values)


def _whole(config: Mapping[str, Any], name: str) -> int:
    value = config[name]
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise ValueError(f"{name} is {value!r:.50}; expected a whole number")
    return value


def _read(file: epath.Path, what: str) -> dict[str, Any]:
    if not file.exists():
        raise FileNotFoundError(
            f"{file} is needed: it says {what}. Download it from where the weights come from"
        )
    try:
        content = read_json(file, MAX_CARD_BYTES)
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} does not hold a JSON object")
    return content
