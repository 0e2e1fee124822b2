"""Information from the files beside a file of weights, such as its license."""

import math
import re
from typing import Any, NamedTuple

from etils import epath

from dino_jax.foreign.files import read_bytes
from dino_jax.foreign.json_text import read_json
from dino_jax.foreign.names import one_line
from dino_jax.weights.provenance import licence_in

# Names of the files that facebookresearch/dino and facebookresearch/dinov2 release; the licences of
# both repositories cover code and weights.
_RELEASED = {
    r"dino_(deitsmall|vitbase|resnet50).*_pretrain.*": "facebookresearch/dino",
    r"dinov2_vit[sblg]14.*_pretrain.*": "facebookresearch/dinov2",
}
MAX_CARD_BYTES = 1 << 24  # of each file beside the weights
TOLD = " (stated in its provenance)"
UNKNOWN_LICENCE = "unknown, check the source of the file"


class ModelCard(NamedTuple):
    """Information about a file beyond its tensors; None where unknown.

    Attributes:
      licence: license of the weights, and how it is known.
      num_heads: attention heads.
      decoder_heads: attention heads of the decoder of an MAE.
      norm_epsilon: epsilon of the LayerNorms.
      mean: mean of every channel, for images in [0, 1].
      std: standard deviation of every channel, for images in [0, 1].
      by_timm: whether timm wrote the config beside it.
    """

    licence: str
    num_heads: int | None = None
    norm_epsilon: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    by_timm: bool = False
    decoder_heads: int | None = None


def read_model_card(path: epath.PathLike, licence: str = "") -> ModelCard:
    """Reads config.json, preprocessor_config.json and README.md beside a file of weights.

    Args:
      path: path of the file of weights.
      licence: license given by the user; "": that of README.md, of the provenance, or of a
        released file by its name.

    Raises:
      OSError: if one of them cannot be read.
      ValueError: if one is not a JSON object, or names an activation that our ViT does not have.
    """
    file = epath.Path(path).expanduser()
    config = _read_json(file.parent / "config.json")
    pixels = _read_json(file.parent / "preprocessor_config.json")
    activation = config.get("hidden_act", "gelu")
    where = file.parent / "config.json"
    if activation != "gelu":
        raise ValueError(f"{where} says hidden_act={activation!r:.50}; our ViT has gelu (erf)")
    return ModelCard(
        licence=f"{licence} (--license)" if licence else _find_licence(file),
        num_heads=_number(config, "num_attention_heads", (int,), where),
        norm_epsilon=_number(config, "layer_norm_eps", (int, float), where),
        mean=_numbers(pixels.get("image_mean")),
        std=_numbers(pixels.get("image_std")),
        by_timm="architecture" in config,
        decoder_heads=_number(config, "decoder_num_attention_heads", (int,), where),
    )


def _find_licence(file: epath.Path) -> str:
    readme = file.parent / "README.md"
    # Hugging Face's model cards begin with YAML between two lines of "---".
    text = read_bytes(readme, MAX_CARD_BYTES).decode(errors="replace") if readme.exists() else ""
    card = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    stated = re.search(r"^license:\s*(\S.*?)\s*$", card[1], re.MULTILINE) if card else None
    if stated:
        return f"{one_line(stated[1][:200])} (stated in {readme.name} beside the file)"
    if told := licence_in(file):
        return told.removesuffix(TOLD) + TOLD
    for pattern, repository in _RELEASED.items():
        if re.fullmatch(pattern, file.name):
            return f"Apache-2.0 (that of {repository}, whose released files have this name)"
    return UNKNOWN_LICENCE


def _number(config: dict[str, Any], key: str, kinds: tuple[type, ...], where: epath.Path) -> Any:
    value = config.get(key)
    if value is None or (type(value) in kinds and 0 < value < math.inf):
        return value
    raise ValueError(f"{where} says {key}={value!r:.50}; expected a positive number")


def _numbers(values: Any) -> tuple[float, ...] | None:
    if values is None:
        return None
    if not isinstance(values, list) or not all(type(x) in (int, float) for x in values):
        raise ValueError(f"{values!r:.100} is not a list of numbers")
    return tuple(float(value) for value in values)


def _read_json(file: epath.Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        content = read_json(file, MAX_CARD_BYTES)
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} does not hold a JSON object")
    return content
